"""What only a keeper of its own shows: the kernel's odd cases, made by handing it other ways to send signals."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

# In a process of its own: a keeper waits for every child of the process that it is.
RUN = """
    import json, os, select, signal, sys, time
    from quiltwork.cluster.live import keeper as module
    from quiltwork.cluster.live.keeper import Keeper, become_subreaper

    become_subreaper()
    spec = {"argv": ["sh", "-c", SCRIPT], "env": dict(os.environ), "workdir": None, "log": "/dev/null",
            "log_bytes": 4096, "grace_s": 0.0, "keep": []}
    said = []

    def run(keeper, each=lambda: None):
        keeper.start()
        until = time.monotonic() + 60
        while not keeper.gone and time.monotonic() < until:
            each()
            keeper.look()
            keeper.pump()
            time.sleep(0.002)
        keeper.end()
        print(json.dumps(said))
"""


def keep(script, code):
    program = textwrap.dedent(RUN).replace("SCRIPT", repr(script)) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_who_survives_sigkill_is_told_and_is_not_gone_until_it_is():
    said = keep(
        "trap '' TERM; while :; do sleep 0.02; done",
        """
        module.STUCK_S = 0.1
        immortal = [True]

        def kill(pid, number):
            if not immortal[0]:
                os.kill(pid, number)

        keeper = Keeper(spec, said.append, kill=kill)

        def each():
            if keeper.leader is not None:
                keeper.stop(0.0)
            if any("trouble" in one for one in said):
                assert not keeper.gone
                immortal[0] = False

        run(keeper, each)
        """,
    )
    assert [next(iter(one)) for one in said] == ["started", "trouble", "ended"]
    assert said[1]["trouble"] == "survives SIGKILL; its slots stay taken until it is gone"
    assert said[2]["ended"] == {"code": None, "signal": 9, "why": ""}


def test_what_a_worker_leaves_behind_for_a_moment_is_waited_for():
    said = keep("(sleep 0.1) & exit 4", "run(Keeper(spec, said.append))")
    assert [next(iter(one)) for one in said] == ["started", "ended"]
    assert said[1]["ended"]["code"] == 4


def test_a_worker_that_forks_without_end_is_killed_to_the_last_process():
    said = keep(
        "trap '' TERM; while :; do (sleep 100 &) ; sleep 0.005; done",
        """
        keeper = Keeper(spec, said.append)


        def each():
            if len(module.descendants(os.getpid(), module.processes())) > 8:
                keeper.stop(0.2)

        run(keeper, each)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        else:
            raise SystemExit("a child is left")
        """,
    )
    assert said[-1]["ended"] == {"code": None, "signal": 9, "why": ""}
