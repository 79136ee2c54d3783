"""Peak memory of serving the sixteen applications, above what each side takes once it has imported its code.

The baseline holds sixteen whole transformers models in one process, LoRAs merged as a system without adapters has
them; printed beside it are the same process with PEFT adapters over the base's memory-mapped weights, and a process
per application. Each side loads its models and then serves the same requests, one per application.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from quiltwork.core.bench import Claim, Context, Outcome, at_most, tree_pss_bytes
from work.fleet import BODY_30M, Fleet, Shape, merged, sixteen_apps
from work.prompts import prompts
from work.reference import Reference
from work.side import Side
from work.stock import stock

NAME = "serving.fleet_peak_pss"
CLAIMS = (
    Claim(name=NAME, room="serving",
          title="peak PSS serving the 16-app fleet, above imports, vs one process with 16 transformers models",
          reach=at_most(0.35), ratio="ours/baseline", unit="bytes", parity=False),
)  # fmt: skip
PROMPT_TOKENS, NEW_TOKENS = 128, 32
QUICK_SHAPE = Shape(layers=4)

Answers = list[list[int]]
Requests = list[tuple[str, list[int], int]]


def measure(side: Side, models: object, requests: Requests) -> tuple[int, Answers]:
    """Load, serve, and return the peak above the floor in bytes, and the answers."""
    with side.peak_pss() as peak:
        side.call("load", models)
        answers: Answers = side.call("serve", requests)
    return peak.bytes - side.floor_pss, answers


def process_per_app(folders: Mapping[str, Path], requests: Requests) -> tuple[int, int]:
    """Sum of PSS over one transformers process per application: above the imports of each, and in all (bytes)."""
    with ExitStack() as stack:
        sides = []
        for name, path in folders.items():
            side = stack.enter_context(Side("work.hf:HfModels", threads=1))
            side.call("load", {name: path})
            side.call("serve", [r for r in requests if r[0] == name])
            sides.append(side)
        total = sum(tree_pss_bytes(side.pid) for side in sides)
        return total - sum(side.floor_pss for side in sides), total


def run(context: Context) -> Mapping[str, Outcome]:
    """A fresh process per side and repeat."""
    repeats = 1 if context.quick else 3
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed, shape=QUICK_SHAPE if context.quick else BODY_30M)
    whole = merged(fleet, context.scratch / "merged")
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    names = [app.name for app in fleet.apps]
    folders, adapters = _folders(whole), _folders(fleet)
    texts = prompts(len(names), PROMPT_TOKENS, fleet.shape.vocab, seed=context.seed)
    requests: Requests = [(name, text, NEW_TOKENS) for name, text in zip(names, texts, strict=True)]
    systems: dict[str, tuple[Callable[[], Side], object]] = {
        "ours": (lambda: Side("work.ours:OurModels", threads=1, zoo=zoo, max_num_seqs=4, prefix_cache=False), names),
        "16 merged models, one process": (lambda: Side("work.hf:HfModels", threads=1), folders),
        "16 models, LoRAs unmerged, one process": (lambda: Side("work.hf:HfModels", threads=1, merge=False), adapters),
    }
    peaks: dict[str, list[int]] = {name: [] for name in systems}
    answers: dict[str, dict[str, list[int]]] = {}
    floors: dict[str, int] = {}
    sides: dict[str, object] = {}
    for turn in range(repeats):
        for name, (start, models) in systems.items():
            context.progress(f"{name}, {turn + 1} of {repeats}")
            with start() as side:
                peak, given = measure(side, models, requests)
                peaks[name].append(peak)
                floors[name], sides[name] = side.floor_pss, side.call("conditions")
                answers[name] = dict(zip(names, given, strict=True))
    rows: list[dict[str, object]] = [
        {"system": name, "peak above imports, MB": [round(p / 1e6, 1) for p in values],
         "imports, MB": round(floors[name] / 1e6, 1)}
        for name, values in peaks.items()
    ]  # fmt: skip
    if not context.quick:
        above, total = process_per_app(folders, requests)
        rows.append({"system": "a transformers process per app", "peak above imports, MB": [round(above / 1e6, 1)],
                     "imports, MB": round((total - above) / 1e6, 1)})  # fmt: skip
    baseline = "16 merged models, one process"
    asked = {name: (name, text) for name, text, _ in requests}
    with Reference(folders) as reference:
        same = reference.compare(asked, answers["ours"], answers[baseline])
    return {
        NAME: Outcome(
            ours=[float(p) for p in peaks["ours"]],
            baseline=[float(p) for p in peaks[baseline]],
            answers_equal=same.equal,
            details={
                "answers": same.summary(),
                "prompt_tokens": PROMPT_TOKENS,
                "new_tokens": NEW_TOKENS,
                "sides": sides,
            },
            rows=rows,
        )
    }


def _folders(fleet: Fleet) -> dict[str, Path]:
    return {app.name: app.path for app in fleet.apps}
