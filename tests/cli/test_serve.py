"""``quiltwork serve``: a described cluster is run, planned for, and refused where it makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quiltwork.cli.serve import app
from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError
from quiltwork.serving.simulate.arms import Arm
from quiltwork.serving.simulate.describe import described, read_description
from quiltwork.serving.simulate.planning import Objective, objective_of

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
LINKS = {"inside": {"gbit_per_s": 100}, "between": {"gbit_per_s": 10, "latency_us": 50}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, its profile, a cluster for it, and a trace."""
    from quiltwork.zoo import Zoo

    made = tmp_path_factory.mktemp("cluster")
    with Zoo(made / "zoo") as zoo:
        for name in ("base", "unittest-top2", "xml-lora-r8"):
            zoo.add(MODELS / name)
    profile = ["profile", "--zoo", str(made / "zoo"), "--model", "base", "--rows", "16", "--context", "16",
               "--repeats", "1", "--threads", "1", "--out", str(made / "profile.json"), "--json"]  # fmt: skip
    done = CliRunner().invoke(app, profile, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["conditions"]["threads"] == 1
    assert found == json.loads((made / "profile.json").read_text())
    cluster = {"servers": [1, 2], "device": {"memory_gb": 0.05, "load_gb_per_s": 1}, "links": LINKS,
               "zoo": {"path": "zoo", "profile": "profile.json"}}  # fmt: skip
    (made / "cluster.json").write_text(json.dumps(cluster))
    rows = [f"2023-11-16 18:15:{s:02d}.0,{20 + s},{5 + s % 7}" for s in range(40)]
    (made / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    return made


def described_with(folder: Path, tmp_path: Path, table: dict[str, object]) -> Path:
    """The folder's cluster and trace beside another table of block times."""
    made = tmp_path / f"cluster{len(list(tmp_path.iterdir()))}"
    made.mkdir()
    cluster = json.loads((folder / "cluster.json").read_text())
    cluster["zoo"] = {"path": str(folder / "zoo"), "profile": "profile.json", "models": ["base"]}
    (made / "cluster.json").write_text(json.dumps(cluster))
    (made / "profile.json").write_text(json.dumps(table))
    (made / "trace.csv").write_text((folder / "trace.csv").read_text())
    return made


def invoke(folder: Path, command: str, *options: str, rate: str = "20") -> tuple[int, dict[str, object]]:
    args = [command, str(folder / "cluster.json"), "--trace", str(folder / "trace.csv"), "--rate", rate, "--json"]
    done = CliRunner().invoke(app, [*args, *options], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def test_a_zoo_of_real_models_is_simulated_in_every_arm_with_the_same_tokens(folder: Path) -> None:
    found = {arm: invoke(folder, "simulate", "--arm", arm)[1] for arm in Arm}
    assert {f["finished"] for f in found.values()} == {40}
    weights = {arm: read_description(folder / "cluster.json").served(arm) for arm in Arm}
    nbytes = {
        arm: sum({p.instance: p.profile.weight_bytes for a in apps for p in a.route}.values())
        for arm, apps in weights.items()
    }
    assert nbytes[Arm.BLOCKS] < nbytes[Arm.ADAPTERS] < nbytes[Arm.MODELS]
    base = next(a for a in weights[Arm.BLOCKS] if a.name == "base")
    lora = next(a for a in weights[Arm.BLOCKS] if a.name == "xml-lora-r8")
    assert base.route == lora.route
    assert (base.attached, lora.attached) == (False, True)


def test_a_tenants_model_is_measured_and_simulated_by_its_full_name(folder: Path, tmp_path: Path) -> None:
    from quiltwork.zoo import Zoo

    with Zoo(tmp_path / "zoo") as zoo:
        zoo.add(MODELS / "base", name="own", tenant="acme")
    profile = ["profile", "--zoo", str(tmp_path / "zoo"), "--model", "acme::own", "--rows", "2", "--context", "16",
               "--repeats", "1", "--out", str(tmp_path / "profile.json"), "--json"]  # fmt: skip
    assert CliRunner().invoke(app, profile, catch_exceptions=False).exit_code == 0
    (tmp_path / "cluster.json").write_text((folder / "cluster.json").read_text())
    (tmp_path / "trace.csv").write_text((folder / "trace.csv").read_text())
    assert invoke(tmp_path, "simulate")[1]["finished"] == 40


def test_simulated_times_are_those_of_the_measured_table(folder: Path, tmp_path: Path) -> None:
    table = json.loads((folder / "profile.json").read_text())
    for block in table["blocks"].values():
        block["rows"] = [[1, 1e-3], [16, 1e-3]]
        block["context_s"] = block["prompt_context_s"] = 0.0
    quick = described_with(folder, tmp_path, table)
    for block in table["blocks"].values():
        block["rows"] = [[1, 7e-3], [16, 7e-3]]
    slow = described_with(folder, tmp_path, table)
    alone = ("--arm", "models", "--servers", "1", "--limit", "2")
    found = [float(invoke(where, "simulate", *alone, rate="0.001")[1]["tpot_s"]["p50"]) for where in (quick, slow)]
    # Five layers of two blocks each, the embedding and the head: one token after the other, nothing else to wait for.
    assert found == pytest.approx([12 * 1e-3, 12 * 7e-3], rel=0.01)


def test_the_plan_is_the_fewest_servers_tried_that_hold(folder: Path) -> None:
    code, found = invoke(folder, "plan", "--slo", "p95<=1000s", "--models", "base")
    assert (code, found["servers"]) == (0, 1)
    code, found = invoke(folder, "plan", "--slo", "ttft_p95<=1ms", "--slo", "p95<=1000s", "--most", "3")
    assert found["servers"] is None or code == 0
    curve = found["curve"]
    assert isinstance(curve, list)
    assert [p["holds"] for p in curve] == [
        all(p["measured_s"][t] <= limit for t, limit in (("ttft_p95<=1ms", 0.001), ("p95<=1000s", 1000))) for p in curve
    ]


def test_an_impossible_objective_exits_with_1(folder: Path) -> None:
    code, found = invoke(folder, "plan", "--slo", "p95<=0.000001ms", "--most", "2")
    assert (code, found["servers"]) == (1, None)


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("p95<=2s", Objective("latency", 0.95, 2.0)),
        ("ttft_p50 <= 300ms", Objective("ttft", 0.5, 0.3)),
        ("tpot_p99.5<=0.05", Objective("tpot", 0.995, 0.05)),
        ("p5<=1", Objective("latency", 0.05, 1.0)),
        ("p100<=2s", Objective("latency", 1.0, 2.0)),
    ],
)
def test_objectives_are_read(text: str, objective: Objective) -> None:
    assert objective_of(text) == objective


@pytest.mark.parametrize("text", ["", "fast", "p95<2s", "p1000<=2s", "mean<=2s"])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="p95<=2s"):
        objective_of(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("p0<=2s", "percentile"),
        ("p101<=2s", "percentile"),
        ("p00<=2s", "percentile"),
        ("ttft_p0<=2s", "percentile"),
        ("p95<=0s", "limit"),
        ("p95<=0.0ms", "limit"),
        ("p95<=" + "9" * 400 + "s", "limit"),
    ],
)
def test_an_objective_that_means_nothing_is_refused(text: str, named: str) -> None:
    with pytest.raises(BadInputError, match=named) as refused:
        objective_of(text)
    assert refused.value.where == "--slo"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"servers": [0]}, "servers"),
        ({"servers": None}, "servers"),
        ({"device": "abacus"}, "device"),
        ({"device": {"memory_gb": 4}}, "device: load_gb_per_s"),
        ({"links": {"between": {"gbit_per_s": "fast"}}}, "links.between: gbit_per_s"),
        ({"families": []}, "families"),
        ({"settings": {"kv": 3}}, "settings: kv"),
        ({"settings": {"speed": 3}}, "settings: speed"),
        ({"settings": {"step_us": "slow"}}, "settings: step_us"),
        ({"settings": {"beat_s": 0.1}}, "settings: front_us"),
        ({"settings": {"front_us": 100, "horizon": 1.5}}, "settings: horizon"),
        ({"colour": "red"}, "colour"),
        ({"families": [{"name": "x", "layers": 2, "apps": {"base": 1}}]}, "families[0]: operators"),
        ({"families": [], "zoo": {"path": "zoo"}}, "zoo: profile"),
    ],
)
def test_a_malformed_description_is_refused_with_the_field(changes: dict[str, object], named: str) -> None:
    with pytest.raises(BadInputError) as refused:
        described({"servers": [1], "families": [{}]} | changes, Path())
    assert refused.value.where == f"cluster: {named}"


def test_a_front_and_what_agents_do_besides_batches_are_read_in_the_units_they_are_named_by(folder: Path) -> None:
    document = json.loads((folder / "cluster.json").read_text())
    document["settings"] = {"front_us": 400, "beat_s": 0.5, "horizon": 8, "step_us": 300, "piece_us": 200}
    document["links"] = {"front": {"gbit_per_s": 8, "latency_us": 100}}
    read = described(document, folder).settings
    assert read.front is not None
    assert (read.front.beat_s, read.front.horizon, read.front.link.bytes_per_s) == (0.5, 8, 1e9)
    assert (read.front.token_s, read.front.link.latency_s) == pytest.approx((4e-4, 1e-4))
    assert (read.step_s, read.piece_s) == pytest.approx((3e-4, 2e-4))
    del document["settings"]["front_us"], document["settings"]["beat_s"], document["settings"]["horizon"]
    assert described(document, folder).settings.front is None


def test_a_missing_or_unreadable_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.yaml"):
        read_description(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("servers: [1, 2")
    with pytest.raises(BadInputError, match=r"bad\.yaml"):
        read_description(tmp_path / "bad.yaml")


def test_without_measured_tables_nothing_is_simulated(folder: Path, tmp_path: Path) -> None:
    cluster = json.loads((folder / "cluster.json").read_text())
    for world in (
        cluster | {"zoo": {"path": str(folder / "zoo"), "profile": "none.json"}},
        {"servers": [1], "families": [{"name": "x", "operators": "none.csv", "layers": 2, "apps": {"base": 1}}]},
    ):
        (tmp_path / "cluster.json").write_text(json.dumps(world))
        with pytest.raises(QuiltworkError, match=r"none\.(json|csv)") as refused:
            read_description(tmp_path / "cluster.json")
        assert refused.value.exit_code == 2


@pytest.mark.parametrize("rate", ["1e-300", "1e-9"])
def test_a_rate_at_which_the_trace_takes_years_is_refused(folder: Path, rate: str) -> None:
    with pytest.raises(BadInputError, match="more than a year"):
        invoke(folder, "simulate", rate=rate)


@pytest.mark.parametrize(
    ("options", "named"), [(("--threads", "100000"), "--threads"), (("--out", "nowhere/profile.json"), "nowhere")]
)
def test_what_a_profile_cannot_use_is_said_before_anything_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], named: str
) -> None:
    def measured(*args: object, **fields: object) -> None:
        raise AssertionError("nothing is to be measured")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("quiltwork.serving.profiles.measure.measure", measured)
    with pytest.raises(BadInputError) as refused:
        CliRunner().invoke(app, ["profile", "--zoo", "zoo", "--model", "base", *options], catch_exceptions=False)
    assert refused.value.where == named


def test_apps_that_are_not_described_cannot_be_planned_for(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        read_description(folder / "cluster.json").only(["nobody"])
