"""One page that shows what a model spends on which token: it holds all that it draws, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import secrets
from html import escape
from pathlib import Path

from quiltwork.core.disk import disk_errors
from quiltwork.moe.report.charts import course_charts, layers_chart, load_chart, loss_chart, strength
from quiltwork.moe.report.drawing import number
from quiltwork.moe.report.figures import Figures, skew
from quiltwork.moe.report.text_view import STEPS, layer_choice, legend, text_view, word_lists

_PAGE = Path(__file__).parent / "page"


def write_page(path: Path, figures: Figures) -> None:
    """Write the page whole, or not at all. Raises QuiltworkError where it cannot be written."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with disk_errors(path):
        try:
            fresh.write_text(page_of(figures), encoding="utf-8")
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def page_of(figures: Figures) -> str:
    """The page as HTML."""
    words = word_lists(figures)
    parts = {
        "title": escape(f"{figures.title}: experts per token"),
        "name": escape(figures.title),
        "subtitle": escape(_subtitle(figures)),
        "style": (_PAGE / "page.css").read_text(encoding="utf-8") + _shades(),
        "script": (_PAGE / "page.js").read_text(encoding="utf-8"),
        "most": str(figures.most),
        "steps": str(STEPS),
        "tiles": _tiles(figures),
        "layers": layer_choice(figures.layers),
        "legend": legend(figures.most),
        "text": text_view(figures),
        "words": f'<div id="words">{words}</div>' if words else "",
        "bars": layers_chart(figures),
        "key": _key(figures.most),
        "course": _course(figures),
        "load": load_chart(figures),
        "loss": _loss(figures),
        "source": "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in figures.facts.items()),
    }
    page = (_PAGE / "page.html").read_text(encoding="utf-8")
    # In one pass: what is put in may hold braces of its own.
    return re.sub(r"\{\{([a-z]+)\}\}", lambda place: parts[place[1]], page)


def _subtitle(figures: Figures) -> str:
    return f"{figures.layers} layers of {len(figures.load[0])} experts, {figures.tokens:,} tokens read"


def _shades() -> str:
    """A class for each shade of the text."""
    return "\n".join(f".s{step} {{ --s: {step / STEPS:.3f}; }}" for step in range(STEPS + 1))


def _tiles(figures: Figures) -> str:
    many = sum(sum(row[2:]) for row in figures.shares) / figures.layers
    wanted = "" if figures.target is None else f"{figures.target:g} was asked for"
    tiles = [("Experts per token", f"{figures.mean():.3f}", wanted),
             ("Took more than one", f"{many:.1%}", "of tokens, all layers")]  # fmt: skip
    if "model" in figures.flops and "most" in figures.flops:
        saved = figures.flops["model"] / figures.flops["most"]
        tiles.append(("FLOPs of a token", number(figures.flops["model"]), f"{saved:.0%} of always {figures.most}"))
    if figures.loss is not None:
        tiles.append(("Loss on this text", f"{figures.loss:.4f}", "nats"))
    tiles.append(("Busiest expert", f"{max(map(skew, figures.load)):.2f}×", "an equal part of its layer"))
    return "".join(
        f"<dl><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></dl>"
        for name, value, more in tiles
    )


def _key(most: int) -> str:
    return "".join(
        f'<span><i class="patch" style="--s:{strength(k, most):.3f}"></i>{k} expert{"" if k == 1 else "s"}</span>'
        for k in range(1, most + 1)
    )


def _course(figures: Figures) -> str:
    charts = course_charts(figures)
    if not charts:
        return ""
    target = '<span><i class="dash"></i>asked for</span>' if figures.target is not None else ""
    figures_ = "".join(f'<div class="chart">{chart}</div>' for chart in charts)
    return (
        '<section aria-labelledby="course-title"><div class="title"><h2 id="course-title">Over training</h2>'
        "<p>Experts per token, the mean since the point before.</p></div>"
        '<p class="legend"><span><i class="key hot"></i>the layer</span>'
        f'<span><i class="key behind"></i>mean of all layers</span>{target}</p>'
        f'<div class="small">{figures_}</div></section>'
    )


def _loss(figures: Figures) -> str:
    if figures.course is None or not figures.course.steps:
        return ""
    return (
        '<section aria-labelledby="loss-title"><div class="title"><h2 id="loss-title">Loss</h2>'
        "<p>In nats, over steps.</p></div>"
        '<p class="legend"><span><i class="key behind"></i>training, since the point before</span>'
        '<span><i class="key hot"></i>held out</span></p>'
        f'<div class="chart">{loss_chart(figures.course)}</div></section>'
    )
