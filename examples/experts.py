"""A mixture of experts made on the spot, and asked by requests that take one, some or two experts for each token."""

from __future__ import annotations

import sysconfig
import time
from pathlib import Path

from rich.console import Console
from sides import Quilt

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.trainable import Setup
from quiltwork.moe import moe_trainable
from quiltwork.zoo import Zoo

MODEL = "json-experts"
PACKAGE = "json"
"""Of Python's library: what is read."""
STEPS, MEAN = 120, 1.3
"""A controller sets each layer's threshold while it learns, so that a token takes so many experts in the mean."""
SETTINGS = {
    "task": "lm", "steps": STEPS, "target_experts": MEAN, "width": 48, "inner": 64, "layers": 2, "heads": 4,
    "experts": 8, "length": 64, "batch": 8, "rate": 5e-3, "warm_up": 10, "validate_every": STEPS, "validate_on": 16,
}  # fmt: skip
PROMPT = "def decode(self, s"
KNOBS = (("as it was trained", None), ("experts: 1", 1), ("experts: 2", 2))


def show_experts(quilt: Quilt, zoo: Path, scratch: Path, console: Console) -> None:
    """Train a small model of experts, load it into the running server, and turn the knob of its requests."""
    text = sources()
    if not text:
        say(console, "a mixture of experts is left out: this Python comes without its sources")
        return
    file, began = scratch / "json.txt", time.monotonic()
    file.write_text(text, encoding="utf-8")
    try:
        training = moe_trainable()
        training.setup(Setup({**SETTINGS, "corpus": str(file), "out": str(scratch / MODEL)}, 0))
        while not (report := training.step()).finished:
            pass
        took = time.monotonic() - began
        with Zoo(zoo) as opened:
            opened.add(scratch / MODEL)
        quilt.post("/models/load", {"model": MODEL})
        asked = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        replies = [(told, quilt.post("/v1/completions", {**asked, "experts": knob})) for told, knob in KNOBS]
    except QuiltworkError as error:
        say(console, f"a mixture of experts is left out: {error}")
        return
    first, last = report.metrics["held_out_before"], report.metrics["held_out_after"]
    say(console, f"\nAnd {MODEL}, a mixture of {SETTINGS['experts']} experts that learnt from {len(text) / 1e3:.0f} kB "
        f"of Python in {took:.1f} s just now\n({first:.2f} nats per byte before, {last:.2f} after; too little to write "
        f"code, enough to see the knob):")  # fmt: skip
    for told, reply in replies:
        each = reply["usage"]["experts_per_token"]
        say(console, f"  {told:18} {each:.2f} experts per token: {PROMPT + reply['choices'][0]['text'][:30]!r}")


def sources() -> str:
    """All of the package; nothing where there are no sources."""
    files = sorted((Path(sysconfig.get_path("stdlib")) / PACKAGE).glob("*.py"))
    return "\n".join(file.read_text("utf-8") for file in files)


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
