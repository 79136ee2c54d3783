"""One page that shows a comparison: it holds all that it draws, and asks nobody for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from quiltwork.cluster.study.comparison import Comparison
from quiltwork.cluster.study.figures import duration, lines_of
from quiltwork.cluster.study.results import write_whole
from quiltwork.core.servable import Json

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("shapes.js", "distributions.js", "overtime.js", "servers.js", "page.js")


def write_report(
    path: Path, found: Comparison, story: Sequence[Mapping[str, Json]], document: Mapping[str, Json]
) -> None:
    """Write the page; ``story`` has an entry of ``story_of`` for each arm. Raises OSError."""
    write_whole(path, page_of(found, story, document))


def page_of(found: Comparison, story: Sequence[Mapping[str, Json]], document: Mapping[str, Json]) -> str:
    """The page as HTML."""
    study = found.study
    data = {
        "arms": [
            {"name": outcome.arm.name, "queue_mean_s": outcome.metrics.queue_mean_s,
             "jct_mean_s": outcome.metrics.jct_mean_s, **told}
            for outcome, told in zip(found.outcomes, story, strict=True)
        ],
    }  # fmt: skip
    infer = f" and {study.fleet.infer:,} of inference ({study.fleet.types[1]})" if study.fleet.infer else ""
    subtitle = (
        f"{found.jobs:,} jobs on {study.fleet.train:,} training servers ({study.fleet.types[0]}){infer}, "
        f"{study.fleet.gpus_per_server} GPUs each"
    )
    parts = {
        "title": escape(f"{', '.join(o.arm.name for o in found.outcomes)}: simulated cluster"),
        "subtitle": escape(subtitle),
        "style": (_PAGE / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((_PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        # A text in the data must not end the element that holds it.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "figures": _tiles(found),
        "table": _table(found),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in found.notes),
        "source": _source(document),
    }
    page = (_PAGE / "page.html").read_text(encoding="utf-8")
    # In one pass: what is put in may hold braces of its own.
    return re.sub(r"\{\{([a-z]+)\}\}", lambda place: parts[place[1]], page)


def _tiles(found: Comparison) -> str:
    """What the first arm and the best one differ in most plainly."""
    first = found.outcomes[0]
    tiles = [("Jobs", f"{found.jobs:,}", "")]
    if len(found.outcomes) == 1:
        m = first.metrics
        tiles += [("Mean queue", duration(m.queue_mean_s), ""), ("Mean JCT", duration(m.jct_mean_s), ""),
                  ("Training's GPUs in use", f"{m.usage_train:.0%}", "")]  # fmt: skip
    else:
        for name, of in (("Shortest mean queue", "queue_mean_s"), ("Shortest mean JCT", "jct_mean_s")):
            best = min(found.outcomes, key=lambda o: float(getattr(o.metrics, of)))
            than = "" if best is first else f"{first.arm.name} {duration(getattr(first.metrics, of))}"
            tiles.append((f"{name}: {best.arm.name}", duration(getattr(best.metrics, of)), than))
        most = max(found.outcomes, key=lambda o: o.metrics.goodput)
        than = "" if most is first else f"{first.arm.name} {first.metrics.goodput:.1%}"
        tiles.append((f"Most goodput: {most.arm.name}", f"{most.metrics.goodput:.1%}", than))
    return "".join(
        f"<dl><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></dl>"
        for name, value, more in tiles
    )


def _table(found: Comparison) -> str:
    head = "".join(f'<th scope="col"><i class="key k{at}"></i>{escape(o.arm.name)}</th>'
                   for at, o in enumerate(found.outcomes))  # fmt: skip
    rows = [f'<thead><tr><th scope="col">Figure</th>{head}</tr></thead>']
    for group, lines in groupby(lines_of(found), key=lambda line: line.group):
        rows.append(f'<tbody><tr class="group"><th scope="rowgroup" colspan="{len(found.outcomes) + 1}">'
                    f"{escape(group)}</th></tr>")  # fmt: skip
        for line in lines:
            of = f"<small>{escape(line.of)}</small>" if line.of else ""
            cells = "".join(
                f'<td class="best">{escape(value)}<span class="said"> best</span></td>' if at in line.best
                else f"<td>{escape(value)}</td>"
                for at, value in enumerate(line.values)
            )  # fmt: skip
            rows.append(f'<tr><th scope="row">{escape(line.name)}{of}</th>{cells}</tr>')
        rows.append("</tbody>")
    return f"<table>{''.join(rows)}</table>"


def _source(document: Mapping[str, Json]) -> str:
    """The command, the hashes of what was read, the versions, and what was assumed."""
    lines = [("command", document["command"] or "from Python")]
    lines += [(f"SHA-256 of {name}", value) for name, value in document["inputs"].items()]
    lines += [("versions", ", ".join(f"{name} {v}" for name, v in document["versions"].items()))]
    for name, value in document["study"].items():
        shown = ", ".join(f"{k} {_short(v)}" for k, v in value.items()) if isinstance(value, dict) else value
        lines.append((name.replace("_", " "), ", ".join(map(str, shown)) if isinstance(shown, list) else _short(shown)))
    return "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in lines)


def _short(value: Json) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
