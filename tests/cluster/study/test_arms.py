"""Policies by name, with rules changed as people write them."""

import pytest

from quiltwork.cluster.changes import changes_of
from quiltwork.cluster.policy.rules import Cost, rules_named
from quiltwork.cluster.study.arms import SETTINGS, Arm, arm_of, arms_of
from quiltwork.core.errors import BadInputError


def test_a_name_is_a_set_of_rules_and_may_change_some():
    assert arm_of("lyra") == Arm("lyra", rules_named("lyra"))
    arm = arm_of("lyra:headroom=0.1,reclaim=random")
    assert arm.name == "lyra:headroom=0.1,reclaim=random"
    assert arm.rules == rules_named("lyra", headroom=0.1, reclaim=Cost.RANDOM)


def test_changes_for_all_come_before_an_arms_own():
    arms = arms_of(["lyra", "lyra:headroom=0.2"], ["headroom=0.1", "min-lease-s=20m", "restart_s=30"])
    assert [arm.rules.headroom for arm in arms] == [0.1, 0.2]
    assert {arm.rules.min_lease_s for arm in arms} == {1200.0}
    assert [arm.settings for arm in arms] == [{"restart_s": 30.0}] * 2


def test_every_kind_of_rule_is_read():
    found = changes_of(["loaning=yes", "group_lent=off", "backfill_depth=none", "starvation_s=1h", "ageing=0.5",
                        "order=srtf", "forecast=rising", "keep_on_stop=true"], SETTINGS)  # fmt: skip
    assert found == {"loaning": True, "group_lent": False, "backfill_depth": None, "starvation_s": 3600.0,
                     "ageing": 0.5, "order": "srtf", "forecast": "rising", "keep_on_stop": True}  # fmt: skip
    assert changes_of(["backfill_depth=7"], SETTINGS) == {"backfill_depth": 7}
    assert changes_of(["quotas=vision=16/audio=8"], SETTINGS) == {"quotas": {"vision": 16, "audio": 8}}
    assert changes_of(["service_levels=60/3600"], SETTINGS) == {"service_levels": (60.0, 3600.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("headrom=1", "--set: 'headrom' is not a rule .*did you mean headroom"),
        ("zzz=1", r"'zzz' is not a rule \(known: order, .*restart_s"),
        ("headroom", "--set headroom: has no value"),
        ("headroom=a", "--set headroom: 'a' is not a number"),
        ("headroom=nan", "--set headroom: 'nan' is not a number"),
        ("backfill_depth=1.5", "--set backfill_depth: '1.5' is not a number"),
        ("order=best", "--set order: 'best' is not one of fifo, sjf, srtf"),
        ("loaning=maybe", "--set loaning: 'maybe' is neither yes nor no"),
        ("min_lease_s=soon", "--set min_lease_s: 'soon' is not a duration"),
        ("forecast=clear", "--set forecast: 'clear' is not one of persistent, rising, quantile"),
        ("headroom=-1", "--set headroom: -1.0 is less than 0"),
        ("quotas=vision", "--set quotas: 'vision' is not TEAM=GPUs"),
        ("quotas=a=1/a=2", "--set quotas: team 'a' is given twice"),
        ("seed=3", "'seed' is not a rule"),
        ("service_levels=60/x", "--set service_levels: 'x' is not a number"),
    ],
)
def test_what_is_wrong_with_a_change_is_said_with_what_is_known(text, message):
    with pytest.raises(BadInputError, match=message):
        arm_of("lyra", [text])


def test_policies_that_are_not_there_or_twice_or_none_are_refused():
    with pytest.raises(BadInputError, match=r"policy: 'lira' is not one of fifo, .*lyra"):
        arms_of(["fifo", "lira"])
    with pytest.raises(BadInputError, match="policy: 'fifo' is given twice"):
        arms_of(["fifo", "fifo"])
    with pytest.raises(BadInputError, match="no policy is given"):
        arms_of([])


def test_quotas_for_all_come_before_what_is_set():
    arms = arms_of(["lyra", "lyra:quotas=b=2"], quotas={"a": 4})
    assert [arm.rules.quotas for arm in arms] == [{"a": 4}, {"b": 2}]
    assert arms[0].document()["rules"]["quotas"] == {"a": 4}
    assert arm_of("lyra", ["quotas=c=1"], {"a": 4}).rules.quotas == {"c": 1}


def test_an_arm_tells_all_its_rules_as_json():
    told = arm_of("lyra", ["restart_s=5", "forecast=rising"]).document()
    assert told["rules"]["reclaim"] == "emptied"
    assert type(told["rules"]["reclaim"]) is str
    assert told["settings"] == {"restart_s": 5.0, "forecast": "rising"}
    assert "settings" not in arm_of("lyra").document()
