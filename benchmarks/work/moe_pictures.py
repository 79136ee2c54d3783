"""Draw the pictures of docs/rooms/moe.md from the record of ``moe.time_to_loss_best``.

    python -m work.moe_pictures ../docs/rooms/pictures

(In benchmarks.) One SVG of validation loss over CPU-seconds, one of experts per token over training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quiltwork.moe.report.drawing import Scale, curve, line, number, text, ticks
from work.moe_curve_records import STRETCH

RECORD = Path(__file__).parents[1] / "records" / "moe.time_to_loss_best.json"
NAMES = {"sst2": "SST-2", "lm": "War and Peace", "multi30k": "Multi30k en-de"}
ARMS = {"top2": "top-2", "adaptive": "adaptive", "top1": "top-1", "dense": "dense"}
PANEL, HEIGHT, GAP = 300.0, 250.0, 24.0
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #777 } .head { font-size: 14px; font-weight: 600 }
.grid { stroke: #8884; stroke-width: 1 } path { fill: none; stroke-width: 2 }
.top2 { stroke: #8a8f98 } .adaptive { stroke: #d9480f } .top1 { stroke: #1c7ed6 } .dense { stroke: #2f9e44 }
.layer-0 { stroke: #ffa94d } .layer-1 { stroke: #fd7e14 } .layer-2 { stroke: #d9480f } .layer-3 { stroke: #7f2a08 }
.target { stroke: #8a8f98; stroke-width: 1; stroke-dasharray: 4 3 }
"""
Points = Sequence[tuple[float, float]]


def losses_picture(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """curves : by task, by arm ``cpu_s`` and ``losses``. The untrained loss is left out, so that ends show."""
    parts: list[str] = []
    for at, (task, arms) in enumerate(curves.items()):
        series = {arm: list(zip(told["cpu_s"], told["losses"], strict=True))[1:] for arm, told in arms.items()}
        target = min(loss for _, loss in series["top2"])
        parts += _panel(at, NAMES[task], series, "CPU-seconds", target)
    return _picture(parts, len(curves), ARMS, "Validation loss over CPU-seconds, by gate")


def experts_picture(experts: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """experts : by task, by layer, of every ``STRETCH`` steps."""
    parts: list[str] = []
    for at, (task, layers) in enumerate(experts.items()):
        series = {
            f"layer-{n}": [((place + 0.5) * STRETCH, k) for place, k in enumerate(row)] for n, row in enumerate(layers)
        }
        parts += _panel(at, NAMES[task], series, "steps", None)
    names = {f"layer-{n}": f"layer {n + 1}" for n in range(max(map(len, experts.values())))}
    return _picture(parts, len(experts), names, "Experts per token over training, by layer")


def _panel(at: int, head: str, series: Mapping[str, Points], unit: str, target: float | None) -> list[str]:
    left, right, top, bottom = at * (PANEL + GAP) + 40, at * (PANEL + GAP) + PANEL, 54.0, HEIGHT - 36
    xs, ys = ([point[axis] for points in series.values() for point in points] for axis in (0, 1))
    x, y = Scale(0, max(xs), left, right), Scale(min(ys), max(ys), bottom, top)
    parts = [text(left, 40, head, kind="head"), text(right, HEIGHT - 4, unit, anchor="end")]
    for tick in ticks(y.low, y.high, 4):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, number(tick), anchor="end")]
    parts += [text(x(tick), bottom + 17, number(tick), anchor="middle") for tick in ticks(0, x.high, 4)]
    if target is not None:
        parts.append(line(left, y(target), right, y(target), "target"))
    return [*parts, *(curve([(x(a), y(b)) for a, b in points], kind) for kind, points in series.items())]


def _picture(parts: Sequence[str], panels: int, names: Mapping[str, str], label: str) -> str:
    legend, place = [], 40.0
    for kind, name in names.items():
        legend += [curve([(place, 14), (place + 22, 14)], kind), text(place + 28, 18, name)]
        place += 60 + 7.0 * len(name)
    width = panels * (PANEL + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {HEIGHT:g}" role="img" aria-label="{label}">'
        f"<style>{STYLE}</style>{''.join([*legend, *parts])}</svg>\n"
    )


def main(folder: Path) -> None:
    """Write both."""
    details = json.loads(RECORD.read_text(encoding="utf-8"))["outcome"]["details"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "moe-loss.svg").write_text(losses_picture(details["curves"]), encoding="utf-8")
    (folder / "moe-experts.svg").write_text(experts_picture(details["experts"]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
