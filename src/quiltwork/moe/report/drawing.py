"""SVG by hand: scales, ticks, marks. All colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Scale:
    """From values (``low`` to ``high``) to places (``start`` to ``end``)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Short: 1.25, 12k, 3.4M."""
    for size, mark in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 10 or (abs(value) >= size and size >= 1e6):
            return f"{value / size:.3g}{mark}"
    return f"{value:.4g}"


def svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """The picture; ``label`` is read out where it cannot be seen."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )  # fmt: skip


def text(x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> str:
    """Words at a place."""
    of = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight one."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def curve(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through all points."""
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{way}" class="{kind}"/>' if points else ""


def box(x: float, y: float, width: float, height: float, kind: str, *, strength: float = 1.0, tip: str = "") -> str:
    """A filled rectangle; ``strength`` from 0 to 1 is how much of its colour it has."""
    shade = "" if strength >= 1 else f' style="--s:{strength:.3f}"'
    said = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{kind}"{shade}>'
        f"{said}</rect>"
    )


def thinned(count: int, most: int) -> list[int]:
    """At most about ``most`` of so many places, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
