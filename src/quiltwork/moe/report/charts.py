"""The pictures of a report: experts by layer and over training, the load of experts, the loss."""

from __future__ import annotations

from quiltwork.moe.report.drawing import Scale, box, curve, line, number, svg, text, thinned, ticks
from quiltwork.moe.report.figures import Course, Figures, skew

POINTS = 240
"""Of a curve: more are not told apart."""
TOP = 18.0
"""Where the bars begin, below what heads them."""


def layers_chart(figures: Figures) -> str:
    """A bar for each layer: how many of its tokens took 0, 1, 2 ... experts."""
    row, left, right, width = 27.0, 58.0, 44.0, 520.0
    place = Scale(0, 1, left, width - right)
    bottom = TOP + row * figures.layers + 2
    parts = [text(width, 12, "per token", anchor="end")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [line(place(tick), TOP, place(tick), bottom, "grid"),
                  text(place(tick), bottom + 15, f"{tick:.0%}", anchor="middle")]  # fmt: skip
    for at, (shares, mean) in enumerate(zip(figures.shares, figures.experts(), strict=True)):
        y, so_far = TOP + at * row + 3, 0.0
        parts.append(text(left - 10, y + 14, f"layer {at + 1}", anchor="end"))
        for k, share in enumerate(shares):
            if share > 0:
                tip = f"layer {at + 1}: {share:.1%} of tokens took {k} expert{'' if k == 1 else 's'}"
                x, end = place(so_far), place(so_far + share)
                parts.append(box(x, y, end - x - 1, row - 6, "ramp", strength=strength(k, figures.most), tip=tip))
            so_far += share
        parts.append(text(width, y + 14, f"{mean:.2f}", anchor="end", kind="value"))
    told = ", ".join(f"layer {at}: {k:.2f}" for at, k in enumerate(figures.experts(), start=1))
    return svg(width, bottom + 22, f"Experts per token by layer. {told}", parts)


def strength(experts: float, most: int) -> float:
    """How strongly a number of experts is coloured: 1 expert hardly, ``most`` fully."""
    return 0.08 + 0.92 * min(max((experts - 1) / max(most - 1, 1), 0.0), 1.0) if experts > 0 else 0.0


def course_charts(figures: Figures) -> list[str]:
    """A small picture for each layer: its experts per token over training, all layers' mean behind it."""
    course = figures.course
    if course is None or not course.steps:
        return []
    low = min(1.0, *(min(row) for row in course.experts))
    means = [sum(row) / len(row) for row in course.experts]
    made = []
    for layer in range(figures.layers):
        values = [row[layer] for row in course.experts]
        made.append(_course(figures, course, layer, values, means, low))
    return made


def _course(
    figures: Figures, course: Course, layer: int, values: list[float], means: list[float], low: float
) -> str:  # fmt: skip
    width, height, left, bottom = 230.0, 118.0, 26.0, 98.0
    x = Scale(course.steps[0], course.steps[-1], left, width - 8)
    y = Scale(low, max(figures.most, *values), bottom, 24)
    parts = []
    for tick in ticks(low, figures.most, 2):
        parts += [
            line(left, y(tick), width - 8, y(tick), "grid"),
            text(left - 6, y(tick) + 4, f"{tick:g}", anchor="end"),
        ]
    if figures.target is not None:
        parts.append(line(left, y(figures.target), width - 8, y(figures.target), "cap"))
    shown = thinned(len(values), POINTS)
    parts += [curve([(x(course.steps[i]), y(means[i])) for i in shown], "curve behind"),
              curve([(x(course.steps[i]), y(values[i])) for i in shown], "curve hot"),
              text(left, 14, f"layer {layer + 1}", kind="head"),
              text(width - 8, 14, f"{values[0]:.2f} → {values[-1]:.2f}", anchor="end", kind="value"),
              text(left, height - 4, f"step {course.steps[0]:,}"),
              text(width - 8, height - 4, f"{course.steps[-1]:,}", anchor="end")]  # fmt: skip
    said = f"Layer {layer + 1}: from {values[0]:.2f} experts per token to {values[-1]:.2f}"
    return svg(width, height, said, parts)


def load_chart(figures: Figures) -> str:
    """A row for each layer, a cell for each expert: its part of the assignments against an equal part."""
    experts = len(figures.load[0])
    width, left, right, row = 1060.0, 64.0, 86.0, 30.0
    cell = (width - left - right) / experts
    busiest = max(max(load) * experts / sum(load) if sum(load) else 1.0 for load in figures.load)
    parts = [text(left + (e + 0.5) * cell, 12, str(e + 1), anchor="middle") for e in thinned(experts, 32)]
    parts.append(text(width - right + 12, 12, "max / mean"))
    for at, load in enumerate(figures.load):
        y, total = 20 + at * row, sum(load)
        parts.append(text(left - 10, y + 18, f"layer {at + 1}", anchor="end"))
        for e, taken in enumerate(load):
            times = taken * experts / total if total else 0.0
            tip = f"layer {at + 1}, expert {e + 1}: {taken:,} assignments, {times:.2f} times an equal part"
            x = left + e * cell
            parts.append(box(x + 1, y + 1, cell - 2, row - 3, "cool", strength=min(times / busiest, 0.999), tip=tip))
            if cell >= 30:
                kind = "on" if times / busiest > 0.66 else "cell"
                parts.append(text(x + cell / 2, y + 18, f"{times:.2f}", anchor="middle", kind=kind))
        parts.append(text(width - right + 12, y + 18, f"{skew(load):.2f}", kind="value"))
    told = ", ".join(f"layer {at}: {skew(load):.2f}" for at, load in enumerate(figures.load, start=1))
    return svg(width, 20 + row * figures.layers + 2, f"Load of experts, the busiest against the mean. {told}", parts)


def loss_chart(course: Course) -> str:
    """The training's loss, each the mean since the point before it, and what was held out."""
    width, height, left, bottom = 520.0, 226.0, 34.0, 200.0
    every = [*course.loss, *course.held_out]
    low, high = min(every), max(every)
    x = Scale(min(*course.steps, *course.held_out_steps), max(course.steps), left, width - 58)
    y = Scale(low - 0.04 * (high - low), high, bottom, 12)
    parts = []
    for tick in ticks(low, high, 4):
        parts += [
            line(left, y(tick), width - 58, y(tick), "grid"),
            text(left - 8, y(tick) + 4, number(tick), anchor="end"),
        ]
    for tick in ticks(x.low, x.high, 4):
        parts.append(text(x(tick), bottom + 18, f"{tick:,.0f}", anchor="middle"))
    shown = thinned(len(course.loss), POINTS)
    parts.append(curve([(x(course.steps[i]), y(course.loss[i])) for i in shown], "curve behind"))
    held = list(zip(course.held_out_steps, course.held_out, strict=True))
    parts.append(curve([(x(step), y(loss)) for step, loss in held], "curve hot"))
    parts += [f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.2" class="dot"><title>step {step:,}: held out '
              f"{loss:.4f}</title></circle>" for step, loss in held]  # fmt: skip
    parts += _ends(
        width - 50, bottom, y(course.loss[-1]), course.loss[-1], (y(held[-1][1]), held[-1][1]) if held else None
    )
    ends = f", held out {held[-1][1]:.4f}" if held else ""
    return svg(width, height, f"Loss over steps; at the end {course.loss[-1]:.4f}{ends}", parts)


def _ends(x: float, bottom: float, trained: float, loss: float, held: tuple[float, float] | None) -> list[str]:
    """The last values beside the curves, kept apart and above the axis."""
    if held is None:
        return [text(x, trained + 4, f"{loss:.3f}", kind="value")]
    at, held_loss = held
    upper, lower = min(trained, at), max(trained, at)
    lower = min(max(lower, upper + 28), bottom - 10)
    upper = min(upper, lower - 28)
    first, second = (upper, lower) if trained < at else (lower, upper)
    return [text(x, first, f"{loss:.3f}", kind="value"), text(x, first + 12, "training"),
            text(x, second, f"{held_loss:.3f}", kind="value hot"), text(x, second + 12, "held out")]  # fmt: skip
