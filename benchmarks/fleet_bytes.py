"""What the sixteen applications take in a zoo, against the sum of their folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo
from work.fleet import App, Fleet, Shape, sixteen_apps
from work.stock import stock

LOSSLESS = "zoo.fleet_lossless_bytes"
INT8 = "zoo.fleet_int8_bytes"
WORK = "16-app fleet (full fine-tunes at relative L2 6 %), bytes stored vs sum of folders"
CLAIMS = (
    Claim(name=LOSSLESS, room="zoo", title=f"{WORK}, lossless", reach=at_most(0.45), ratio="ours/baseline",
          unit="bytes", parity=False),
    Claim(name=INT8, room="zoo", title=f"{WORK}, int8 on all changed matrices where allowed", reach=at_most(0.25),
          ratio="ours/baseline", unit="bytes", parity=False),
)  # fmt: skip


STORIES_SHAPE = Shape(vocab=512, hidden=64, layers=5, heads=8, ffn=172, positions=512)


def stories_family(data: Path | None) -> Fleet | None:
    """The real fine-tunes of stories260K, where the data is there: the base and all variants of it."""
    folder = data / "llm" / "weights" / "stories260K" if data is not None else None
    if folder is None or not (folder / "hf" / "config.json").exists():
        return None
    base = App("base", "base", folder / "hf")
    variants = [App(path.name, "variant", path) for path in sorted((folder / "variants").iterdir()) if path.is_dir()]
    return Fleet(folder, STORIES_SHAPE, (base, *variants))


def exact(zoo: Path, fleet: Fleet, scratch: Path) -> bool:
    """Whether export gives back every file of every folder, byte for byte."""
    with Zoo(zoo) as opened:
        for app in fleet.apps:
            opened.export(ModelRef(app.name), scratch / app.name)
            for file in (f for f in app.path.rglob("*") if f.is_file()):
                copy = scratch / app.name / file.relative_to(app.path)
                if not copy.is_file() or copy.read_bytes() != file.read_bytes():
                    return False
    return True


def worst_loss(zoo: Path) -> tuple[int, float]:
    """Tensors kept in a lossy code, and the largest relative error recorded for any of them."""
    with Zoo(zoo) as opened:
        losses = [loss for ref in opened.models() for loss in opened.model(ref).lossy.values()]
    return len(losses), max((loss["relative_error"] for loss in losses), default=0.0)


def run(context: Context) -> Mapping[str, Outcome]:
    """Deterministic: one value each. The whole fleet also when quick: a small body is mostly index."""
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed)
    stories = stories_family(context.data)
    rows, outcomes = [], {}
    for claim, lossy in ((LOSSLESS, None), (INT8, "int8")):
        for name, family in (("16 apps", fleet), ("stories260K and variants", stories)):
            if family is None:
                rows.append({"family": name, "code": lossy or "lossless", "ratio": "no data"})
                continue
            zoo = context.scratch / f"{name.split()[0]}-{lossy}"
            context.progress(f"{name}, {lossy or 'lossless'}")
            stored, folders = stock(zoo, family, lossy=lossy), family.directory_bytes()
            rows.append({"family": name, "code": lossy or "lossless", "stored": stored, "folders": folders,
                         "ratio": round(stored / folders, 4)})  # fmt: skip
            if family is not fleet:
                continue
            details: dict[str, object] = {}
            if lossy is None:
                kept = exact(zoo, fleet, context.scratch / "exported")
            else:
                tensors, error = worst_loss(zoo)
                kept = None
                details = {"lossy_tensors": tensors, "largest_relative_error": error}
            outcomes[claim] = Outcome(ours=[stored], baseline=[folders], answers_equal=kept, details=details, rows=rows)
    return outcomes
