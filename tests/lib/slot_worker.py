"""A worker that checks by itself that nobody else is on its slots: ``LOG SERVER SLOTS stubborn|willing``.

It believes no scheduler: every worker writes its PID and start time to one log, and looks there whether the last one
on each of its slots still runs.
"""

import fcntl
import os
import signal
import sys


def started(pid):
    """When a process began, in ticks; None where there is none that runs."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


log, server, slots, manner = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "stubborn" else lambda *_: sys.exit(0))
with open(log, "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    last = {}
    for line in file:
        word, place, pid, since = line.split()
        if word == "start":
            last[place] = pid, since
    for slot in slots.split(","):
        place = f"{server}/{slot}"
        if place in last and started(last[place][0]) == last[place][1]:
            file.write(f"overlap {place} {os.getpid()} {last[place][0]}\n")
        file.write(f"start {place} {os.getpid()} {started(os.getpid())}\n")
print("ready", flush=True)
while True:
    signal.pause()
