"""The demo's last step: how many of a fine-tune's blocks might others serve, at what measured cost?"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

from assembling import assembled
from rich.console import Console

MODEL = "web-full"
PACKAGES = ("email", "http", "urllib")
"""What MODEL was trained on, but for the last tenth."""
BUDGET, AGREEMENT, TOKENS = 0.01, 0.9, 2048


def show_substitutions(zoo: Path, models: list[str], scratch: Path, console: Console) -> None:
    """Adapt one of the demo's own fine-tunes with `quiltwork zoo adapt`, and print what that found."""
    text = unseen()
    if MODEL not in models or text is None:
        why = "there is no text of theirs here" if MODEL not in models else "this Python comes without its sources"
        say(console, f"\nNot tried: blocks that stand in for others' ({why}); see `quiltwork zoo adapt --help`.")
        return
    file = scratch / "unseen.txt"
    file.write_text(text, encoding="utf-8")
    words = ["--budget", str(BUDGET), "--agreement", str(AGREEMENT), "--per-part", "1", "--tokens", str(TOKENS)]
    quiltwork = Path(sys.executable).parent / "quiltwork"
    command = [str(quiltwork), "zoo", "adapt", MODEL, "--zoo", str(zoo), "--text", str(file)]
    done = subprocess.run([*command, *words, "--json"], capture_output=True, text=True, check=False)
    if not done.stdout:
        say(console, f"\n{MODEL} could not be adapted: {done.stderr.strip()}")
        return
    report = json.loads(done.stdout)
    say(console, told(report))
    if report["substitutions"]:
        say(console, assembled(zoo, report, BUDGET, AGREEMENT))


def told(report: dict) -> str:
    """What `quiltwork zoo adapt --json` found, in words."""
    head = (
        f"\nAll of the above is exact. Might other models' blocks serve in {MODEL},\n"
        f"for at most {BUDGET} nats per token and at least {AGREEMENT:.0%} equal most likely tokens?"
    )
    if not report["substitutions"]:
        return f"{head}\n  No: of {len(report['singles'])} candidates none is within that."
    parts = ", ".join(f"{one['part']} (of {one['model']})" for one in report["substitutions"])
    judged = report["judging"]
    outside = judged["delta_loss"] > BUDGET or judged["agreement"] < AGREEMENT
    verdict = "outside what was asked for: few tokens decided" if outside else "within what was asked for"
    return (
        f"{head}\n  {len(report['substitutions'])} of {len(report['singles'])} candidates: {parts}\n"
        f"  On {judged['tokens']} tokens that had no part in the choice: {judged['loss']:.3f} "
        f"{judged['delta_loss']:+.4f} nats per token, {judged['agreement']:.1%} equal, {verdict}.\n"
        f"  {report['saved_bytes'] / 1e6:.2f} MB less to keep in memory. "
        f"The result is a model of its own; {MODEL} stays as it is."
    )


def unseen() -> str | None:
    """The end of the model's corpus, well inside the tenth that training left out; None where there are no sources."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for package in PACKAGES for path in sorted((library / package).rglob("*.py"))]
    files = [path for path in files if not {"test", "tests"} & set(path.parts)]
    text = "\n".join(path.read_text("utf-8") for path in files)
    return text[-len(text) // 12 :] or None


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
