"""On three real full fine-tunes: parameter cosine would call every block equal; a measured budget keeps its word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quiltwork.core.progress import ignore
from quiltwork.serving.adapt import Asked, adapt, probe_text
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.probe import Probe
from quiltwork.zoo import Zoo
from quiltwork.zoo.equivalence import Budget, Swap, find_candidates

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

TEXTS = {"grimm-ff": "GrimmsFairyTales.txt", "sherlock-ff": "sherlock.txt", "shakespeare-ff": "tinyshakespeare.txt"}
CPU = EngineConfig()
COSINE_RULE = 0.98


@pytest.fixture(scope="module")
def filled(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "zoo"
    weights = data_dir / "llm" / "weights" / "stories260K"
    with Zoo(folder) as zoo:
        zoo.add(weights / "hf", name="base")
        for name in TEXTS:
            zoo.add(weights / "variants" / name)
    return folder


@pytest.fixture
def zoo(filled: Path, tmp_path: Path) -> Zoo:
    shutil.copytree(filled, tmp_path / "zoo")
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def held_out(data_dir: Path):
    """The last tenth of a tenant's text, which its fine-tune has not seen: two thirds to adapt on, and fresh text."""

    def cut(name: str) -> tuple[str, str]:
        whole = (data_dir / "llm" / "text" / TEXTS[name]).read_text(encoding="utf-8")
        begin, fresh = int(len(whole) * 0.9), int(len(whole) * (0.9 + 0.2 / 3))
        return whole[begin:fresh], whole[fresh:]

    return cut


def base_blocks(zoo: Zoo, name: str) -> list[Swap]:
    """For every part of a fine-tune its base's, as a swap."""
    model, base = zoo.model(name), {part.name: part for part in zoo.model("base").parts}
    found = find_candidates(zoo, model, tenant="public", per_part=9)
    swaps = {swap.part: swap for part in found for swap in part.swaps if swap.replacement == base[swap.part]}
    assert list(swaps) == [part.name for part in model.parts]
    return list(swaps.values())


@pytest.mark.parametrize("name", TEXTS)
def test_the_cosine_rule_would_lose_the_fine_tune(zoo: Zoo, held_out, name: str) -> None:
    swaps = base_blocks(zoo, name)
    assert all(swap.cosine >= COSINE_RULE for swap in swaps), "the rule declares every block equal to the base's"
    text = probe_text(zoo, zoo.model(name), Asked(held_out(name)[0], tokens=2048))
    with Probe(zoo.chain(name), zoo.read, CPU) as probe:
        quality = probe.measure(text.judging, text.prefix, swaps)
    print(f"{name}: least cosine {min(s.cosine for s in swaps):.4f}, all of the base's blocks: {quality}")
    assert quality.delta_loss > 0.5


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("budget", "agreement"), [(0.01, 0.97), (0.05, 0.8)])
def test_adapting_keeps_its_word_on_fresh_text(zoo: Zoo, held_out, name: str, budget: float, agreement: float) -> None:
    adapting, fresh = held_out(name)
    report = adapt(
        zoo,
        name,
        budget=Budget(budget, agreement),
        asked=Asked(adapting, tokens=2048),
        config=CPU,
        say=ignore,
        progress=ignore,
        per_part=1,
    )
    assert report.judging is not None
    told = report.judging.quality.delta_loss
    text = probe_text(zoo, report.exact, Asked(fresh, tokens=4096))
    taken = [one.swap for one in report.decision.taken]
    with Probe(zoo.chain(name), zoo.read, CPU) as probe:
        deltas = [probe.measure(half, text.prefix, taken).delta_loss for half in (text.deciding, text.judging)]
    print(f"{name} at {budget}, {agreement}: {[one.part for one in (report.model or report.exact).substitutions]}")
    print(f"  decided on {report.decision.quality.delta_loss:+.4f}, told {told:+.4f}, fresh {sum(deltas) / 2:+.4f}")
    assert report.decision.quality.delta_loss <= budget
    assert sum(deltas) / 2 <= budget + max(told, 0.0)
    if agreement == 0.97:
        assert report.model is None, "real fine-tunes differ too much for the default"
