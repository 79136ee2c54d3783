"""A program that computes in paced steps: ``paced_command.py STEPS SECONDS FILE``, one process for each worker.

A little arithmetic and a wait for the rest of each step. On SIGTERM it writes into FILE (and its rank) how many steps
are done, and goes on from there when it is started again. What it prints: ``begins DONE SECONDS_SINCE_1970``.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

CHUNK = bytes(1 << 20)


def main() -> None:
    steps, seconds = int(sys.argv[1]), float(sys.argv[2])
    kept = Path(f"{sys.argv[3]}.{os.environ['RANK']}")
    done = int(kept.read_text()) if kept.exists() else 0

    def leave(number: int, frame: FrameType | None) -> None:
        written = kept.with_suffix(f"{kept.suffix}.new")
        written.write_text(str(done))
        written.replace(kept)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    print(f"begins {done} {time.time():.4f}", flush=True)
    until = time.monotonic()
    while done < steps:
        hashlib.sha256(CHUNK).digest()
        until += seconds
        time.sleep(max(until - time.monotonic(), 0.0))
        done += 1


if __name__ == "__main__":
    main()
