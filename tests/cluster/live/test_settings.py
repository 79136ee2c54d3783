import pytest

from quiltwork.cluster.live.settings import Settings, settings_of
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.core.errors import BadInputError

TYPES = ("V100", "T4")


def test_a_policy_by_name_with_rules_settings_and_delays_changed():
    found = settings_of("lyra", ["headroom=0.1", "min_run_s=5m", "restart_s=3", "forecast=persistent", "poll_s=0.5"],
                        {"vision": 4}, gpu_types=TYPES)  # fmt: skip
    assert found.rules == rules_named("lyra", headroom=0.1, min_run_s=300.0, quotas={"vision": 4})
    assert (found.delays.restart_s, found.delays.keep_on_stop) == (3.0, True)
    assert (found.forecast, found.poll_s, found.gpu_types) == ("persistent", 0.5, TYPES)
    assert settings_of("sjf", gpu_types=TYPES) == Settings(rules=rules_named("sjf"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("headrom=1", r"--set: 'headrom' is not a rule \(did you mean headroom\? known: order, .*retry_after_s"),
        ("rules=1", "'rules' is not a rule"),
        ("gpu_types=A", "'gpu_types' is not a rule"),
        ("headroom=-1", "--set headroom: -1.0 is less than 0"),
        ("poll_s=0", "--set poll_s: 0.0 is not a number of seconds above 0"),
        ("restart_s=-1", "--set restart_s: '-1' is not a duration"),
    ],
)
def test_what_is_wrong_with_a_change_is_said_with_what_is_known(text, message):
    with pytest.raises(BadInputError, match=message):
        settings_of("lyra", [text], gpu_types=TYPES)
