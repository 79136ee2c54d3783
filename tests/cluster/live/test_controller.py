"""The controller over machines that are lists: what it asks for, and what it makes of what happens."""

import random
import threading

import pytest
from stand_in_cluster import ListedWorld

from quiltwork.cluster.live.backend import ServerBack, ServerLost
from quiltwork.cluster.live.crews import Failed, Finished, Stepped
from quiltwork.cluster.log import Action
from quiltwork.cluster.running import Delays
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, NotFoundError


@pytest.fixture
def world(tmp_path):
    return ListedWorld(tmp_path)


def test_a_command_runs_as_a_gang_and_is_done_when_all_of_it_is(world):
    job = world.command(workers=3)
    world.step()
    orders = list(world.backend.living.values())
    assert [(o.rank, o.world_size, o.master_port) for o in orders] == [(0, 3, 1234), (1, 3, 1234), (2, 3, 1234)]
    assert {o.server_id for o in orders} == {"train-0"}
    assert world.state(job) == "running"
    for order in orders:
        assert world.state(job) == "running"
        world.backend.exit(order.worker_id)
        world.step()
    world.step()
    assert world.state(job) == "done"


def test_a_worker_that_fails_takes_the_job_with_it_and_it_is_tried_as_often_as_it_said(world):
    job = world.command(workers=2, more="retries: 1\n")
    world.step()
    first, second = world.members(job)
    world.backend.exit(first, code=3)
    world.step()
    assert world.backend.stops == [second]
    world.step(times=3)
    assert world.members(job) == [second]  # nobody starts beside a worker of the run before
    world.backend.obey()
    world.step(times=2)
    assert world.state(job) == "running"
    again = world.members(job)
    assert len(again) == 2
    assert not {first, second} & set(again)
    world.backend.exit(again[0], code=3)
    world.step()
    world.backend.obey()
    world.step(times=2)
    shown = world.desk.job(job)
    assert (shown["state"], shown["exit_code"], shown["retries"]) == ("failed", 3, 1)
    assert "exit code 3" in shown["error"]


def test_an_elastic_job_grows_and_shrinks_with_its_survivors(world):
    job = world.elastic(most=8)
    world.step(times=3)
    assert len(world.members(job)) == 8
    assert world.crews.wanted[job] == tuple(world.members(job))
    kept = world.members(job)[0]
    other = world.command("other", workers=4)
    world.step()
    leaving = [w["id"] for w in world.desk.job(job)["members"] if w["leaving"]]
    assert len(leaving) == 4
    assert kept not in leaving
    assert not set(leaving) & set(world.crews.wanted[job])
    assert not world.backend.stops  # they leave by themselves, at a step's end
    assert world.members(other) == []  # and nobody is put beside them before
    assert other in world.desk.status()["held_up"]
    for worker in leaving:
        world.backend.exit(worker)
    world.step()
    assert len(world.members(other)) == 4
    world.check()
    for worker in world.members(other):
        world.backend.exit(worker)
    world.step(times=4)
    assert len(world.members(job)) == 8
    assert kept in world.members(job)


def test_who_does_not_leave_in_time_is_made_to(world):
    job = world.elastic(most=8, more="grace: 20s\n")
    world.step(times=3)
    world.command("other", workers=4)
    world.step()
    leaving = [w["id"] for w in world.desk.job(job)["members"] if w["leaving"]]
    world.step(seconds=25)
    assert set(world.backend.stops) == set(leaving)


@pytest.mark.parametrize(("takes", "lost"), [("5s", 0), ("40s", 100)])
def test_nobody_gets_more_than_the_deadline_to_save_what_he_has(tmp_path, takes, lost):
    delays = Delays(restart_s=1.0, keep_on_stop=True, deadline_s=20.0)
    world = ListedWorld(tmp_path, train=1, settings={"delays": delays})
    job = world.elastic(most=1, more=f"checkpoint: {{path: /c, takes: {takes}}}\ngrace: 1m\n")
    world.step()
    world.step(seconds=100)
    world.desk.drain("train-0", empty=True)
    (stopped,) = [row for row in world.desk.log() if row.action is Action.PREEMPT]
    assert stopped.cost == pytest.approx(lost)
    world.step()
    (worker,) = world.members(job)
    assert world.backend.stops == [worker]
    world.step(seconds=21)
    assert world.backend.stops == [worker] * 2


def test_a_command_that_tells_of_no_checkpoint_is_believed_to_have_none(world):
    for name, more, lost in (("a", "", 100), ("b", "checkpoint: {path: /c}\n", 0)):
        job = world.command(name, workers=4, more=more + "est_duration: 10m\n")
        world.step()
        world.step(seconds=100)
        server = world.desk.job(job)["members"][0]["server"]
        world.desk.drain(server, empty=True)
        assert [row.cost for row in world.desk.log() if row.action is Action.PREEMPT][-1] == pytest.approx(lost * 4)
        world.desk.cancel(job)
        world.desk.undrain(server)
        world.step()
        world.backend.obey()
        world.step()


def test_an_elastic_job_is_done_when_it_says_so_and_its_workers_are_gone(world):
    job = world.elastic(most=2)
    world.step(times=3)
    world.crews.said += [Stepped(job, 5, 10, {"loss": 1.5}), Finished(job)]
    world.step()
    assert world.desk.job(job)["steps"] == [5, 10]
    assert world.desk.job(job)["metrics"] == {"loss": 1.5}
    for worker in world.members(job):
        world.backend.exit(worker)
    world.step(times=2)
    assert world.state(job) == "done"
    assert world.crews.forgotten == [job]


def test_what_a_job_says_of_its_steps_is_what_is_believed_of_it_also_after_a_crash(world):
    job = world.elastic(least=1, most=1)
    world.step()
    assert world.desk.job(job)["left_s"] == pytest.approx(600)
    steps = 0
    for _ in range(20):
        steps += 50
        world.crews.said.append(Stepped(job, steps, 2000))
        world.step(seconds=20)
    believed = world.desk.job(job)["left_s"]
    assert believed == pytest.approx(400, rel=0.1)  # 50 steps in 20 s, and 1000 left
    world.start()
    assert world.desk.job(job)["left_s"] == pytest.approx(believed)
    world.crews.said.append(Stepped(job, steps + 50, 2000))
    world.step(seconds=20)
    assert world.desk.job(job)["left_s"] == pytest.approx(380, rel=0.1)


def test_a_job_that_lies_about_its_steps_is_told_of_and_changes_little(world):
    job = world.elastic(least=1, most=1)
    world.step()
    for steps, total in ((10, 100), (5, 100), (101, 100), (float("nan"), 100), (-3, None), (7, 0)) * 3:
        world.crews.said.append(Stepped(job, steps, total))
        world.step(seconds=20)
    said = world.desk.job(job)
    assert said["steps"] in ([10, 100], [5, 100])
    assert said["state"] == "running"
    assert "not believed any more" in world.desk.status()["troubles"][job]
    told = [line for line in world.desk.explain(job)["history"] if "progress" in line]
    assert len(told) == 3
    assert "went back from 10 to 5 steps" in told[0]
    assert world.desk.job(job)["left_s"] > 0
    world.start()
    assert [line for line in world.desk.explain(job)["history"] if "progress" in line] == told


def test_how_workers_end_does_not_matter_once_the_result_is_written(world):
    job = world.elastic(most=2)
    world.step(times=3)
    first, last = world.members(job)
    world.crews.said.append(Finished(job))
    world.step()
    world.backend.exit(first)
    world.step()
    world.backend.exit(last, None, 9)
    world.step(times=2)
    assert (world.state(job), world.desk.job(job)["exit_code"]) == ("done", 0)


def test_one_that_is_killed_while_the_result_is_written_leaves_that_to_the_others(world):
    job = world.elastic(most=2)
    world.step(times=3)
    first, last = world.members(job)
    world.backend.exit(first, None, 9)
    world.step()
    world.crews.said.append(Finished(job))
    for worker in world.members(job):
        world.backend.exit(worker)
    world.step(times=2)
    assert last not in world.members(job)
    assert world.state(job) == "done"


def test_an_elastic_job_that_ended_well_while_there_was_no_controller_is_asked_again_for_its_result(world):
    job = world.elastic(most=2)
    world.step(times=3)
    before = world.members(job)
    world.start()
    for worker in before:
        world.backend.exit(worker)
    world.step(times=3)
    assert world.state(job) == "running"
    assert not set(before) & set(world.members(job))
    world.crews.said.append(Finished(job))
    for worker in world.members(job):
        world.backend.exit(worker)
    world.step(times=2)
    assert world.state(job) == "done"


def test_nobody_takes_the_place_of_a_worker_of_a_job_that_is_done(world):
    job = world.elastic(most=3)
    world.step(times=3)
    world.crews.said.append(Finished(job))
    for worker in reversed(world.members(job)):  # those that came last are flexible ones
        world.backend.exit(worker)
        world.step(seconds=6, times=2)  # long enough for flexible demand to be divided anew
    assert (world.state(job), len(world.backend.orders)) == ("done", 3)


def test_who_ended_and_said_that_all_is_done_is_no_failure_though_both_are_heard_at_once(world):
    job = world.elastic(most=2)
    world.step(times=3)
    world.crews.said.append(Finished(job))
    for worker in world.members(job):
        world.backend.exit(worker)
    world.step()
    assert (world.state(job), world.desk.job(job)["error"]) == ("done", "")


def test_who_says_that_all_is_done_and_does_not_end_is_made_to_and_the_job_is_done(world):
    job = world.elastic(most=2, more="grace: 20s\n")
    world.step(times=3)
    world.crews.said.append(Finished(job))
    world.step()
    assert world.backend.stops == []
    world.step(seconds=25)
    assert sorted(world.backend.stops) == sorted(world.members(job))
    world.backend.obey()  # by a signal
    world.step(times=2)
    assert (world.state(job), world.desk.job(job)["error"]) == ("done", "")


def test_a_crew_that_is_never_heard_of_is_told_about_until_it_speaks(world):
    job = world.elastic()
    world.step(seconds=2)
    world.step(seconds=301)
    assert "no step of it was heard of for 30" in world.desk.status()["troubles"][f"job {job}"]
    world.crews.said.append(Stepped(job, 1, 10))
    world.step()
    assert world.desk.status()["troubles"] == {}
    world.step(seconds=301)
    assert f"job {job}" in world.desk.status()["troubles"]
    world.desk.cancel(job)
    world.step()
    world.backend.obey()
    world.step(times=2)
    assert (world.state(job), world.desk.status()["troubles"]) == ("cancelled", {})


def test_a_controller_that_is_killed_after_all_was_done_does_not_take_that_for_a_failure(world):
    job = world.elastic()
    world.step(times=2)
    world.crews.said.append(Finished(job))
    world.step()
    world.start()
    for worker in world.members(job):
        world.backend.exit(worker)
    world.step(times=2)
    assert world.state(job) == "done"


def test_an_elastic_worker_that_ends_by_itself_with_nothing_done_fails_its_job(world):
    job = world.elastic(most=1)
    world.step(times=2)
    world.backend.exit(world.members(job)[0])
    world.step(times=2)
    assert (world.state(job), "exit code 0" in world.desk.job(job)["error"]) == ("failed", True)


def test_what_a_worker_says_of_a_job_that_there_is_not_or_that_does_not_run_changes_nothing(world):
    job = world.elastic(most=1)
    world.step(times=2)
    world.desk.cancel(job)
    world.crews.said += [Finished(job), Stepped(job, -5, -1), Failed("nobody", "x"), Stepped("nobody", 1, 1)]
    world.step()
    assert world.state(job) == "stopping"
    world.backend.obey()
    world.step(times=2)
    shown = world.desk.job(job)
    assert (shown["state"], shown["steps"], shown["error"]) == ("cancelled", None, "")


def test_a_clock_that_goes_back_stands_still(world):
    job = world.command(more="time_limit: 1m\n")
    world.step()
    world.clock.now -= 10_000
    other = world.command("other")
    world.step(seconds=1, times=3)
    assert {world.state(job), world.state(other)} == {"running"}
    times = [row.time for row in world.desk.log()]
    assert times == sorted(times)


def test_an_error_of_the_trainable_is_the_jobs(world):
    job = world.elastic()
    world.step(times=2)
    world.crews.said.append(Failed(job, "ValueError: no such file"))
    world.step()
    world.backend.obey()
    world.step(times=2)
    assert (world.state(job), world.desk.job(job)["error"]) == ("failed", "ValueError: no such file")


def test_a_lost_process_of_an_elastic_job_is_replaced(world):
    job = world.elastic(least=1, most=3)
    world.step(times=3)
    before = world.members(job)
    world.backend.exit(before[2], None, None, "its server was lost")
    world.step(times=3)
    assert world.state(job) == "running"
    assert len(world.members(job)) == 3
    assert set(before[:2]) < set(world.members(job))


def test_jobs_of_a_lost_server_run_elsewhere_and_the_server_comes_back(world):
    job = world.command(workers=4)
    world.step()
    (server,) = {o.server_id for o in world.backend.living.values()}
    lost = world.members(job)
    world.backend.lost.add(server)
    world.backend.told.append(ServerLost(server, world.clock.now))
    world.step()
    assert world.desk.job(job)["members"] != []
    for worker in lost:
        world.backend.exit(worker, None, None)
    world.step(times=2)
    assert {o.server_id for o in world.backend.living.values()} == {"train-0", "train-1"} - {server}
    world.backend.lost.clear()
    world.backend.told.append(ServerBack(server, world.clock.now))
    world.step()
    world.command("second", workers=4)
    world.step()
    assert {o.server_id for o in world.backend.living.values()} == {"train-0", "train-1"}


def test_cancelling(world):
    waiting = [world.command(f"c{i}", workers=4) for i in range(3)]
    world.step()
    world.desk.cancel(waiting[2])
    world.step(times=2)
    assert world.state(waiting[2]) == "cancelled"
    world.desk.cancel(waiting[0])
    world.step()
    assert world.state(waiting[0]) == "stopping"
    world.backend.obey()
    world.step(times=2)
    assert world.state(waiting[0]) == "cancelled"
    with pytest.raises(ConflictError):
        world.desk.cancel(waiting[0])
    with pytest.raises(NotFoundError):
        world.desk.cancel("nobody")


def test_a_time_limit_ends_a_job(world):
    job = world.command(more="time_limit: 1m\n")
    world.step()
    world.step(seconds=61)
    world.backend.obey()
    world.step(times=2)
    assert world.state(job) == "failed"
    assert "time limit" in world.desk.job(job)["error"]


def test_a_drained_server_takes_nothing_and_takes_it_again(world):
    world.desk.drain("train-0")
    job = world.command(workers=4)
    world.step()
    assert {o.server_id for o in world.backend.living.values()} == {"train-1"}
    other = world.command("other", workers=4)
    world.step()
    assert world.members(other) == []
    assert "4 GPUs" in world.desk.explain(other)["waits"]
    world.desk.undrain("train-0")
    world.step()
    assert len(world.members(other)) == 4
    with pytest.raises(ConflictError):
        world.desk.undrain("train-0")
    with pytest.raises(NotFoundError):
        world.desk.drain("nowhere")
    assert world.state(job) == "running"


def team(world, name, workers, team):
    return world.command(name, workers=workers, more=f"team: {team}\n")


def test_a_team_has_its_quota_back_from_who_borrows_and_the_next_controller_knows_it(tmp_path):
    world = ListedWorld(tmp_path, train=1, quotas={"red": 2, "blue": 2})
    first, second = team(world, "first", 2, "red"), team(world, "second", 2, "red")
    world.step()
    assert [len(world.members(job)) for job in (first, second)] == [2, 2]
    world.start()
    mine = team(world, "mine", 2, "blue")
    assert "the job is within that" in " ".join(world.desk.explain(mine)["details"])
    world.step()
    assert world.state(second) == "queued"
    assert world.desk.explain(second)["history"][-1].endswith(f"(quota: room for {mine})")
    assert world.members(mine) == []  # not before the borrower's processes are gone
    world.backend.obey()
    world.step()
    assert [len(world.members(job)) for job in (first, second, mine)] == [2, 0, 2]
    world.check()
    assert "the job would borrow" in " ".join(world.desk.explain(second)["details"])
    told = world.desk.status()["teams"]
    assert (told["red"]["quota"], told["red"]["held"], told["red"]["borrowed"], told["red"]["queued"]) == (2, 2, 0, 1)
    found = {(s.name.removeprefix("quiltwork:cluster_"), s.labels.get("team")): s.value for s in world.desk.samples()}
    names = (("team_gpus", "blue"), ("team_quota_gpus", "blue"), ("team_gpus_borrowed", "red"))
    assert [found[name] for name in names] == [2, 2, 0]
    for worker in world.members(mine):
        world.backend.exit(worker)
    world.step(times=2)
    assert (world.state(mine), len(world.members(second))) == ("done", 2)


def test_more_than_there_is_cannot_be_guaranteed(tmp_path):
    with pytest.raises(BadInputError, match=r"quotas: teams are guaranteed 9 GPUs in all, and training's .*have 8"):
        ListedWorld(tmp_path, quotas={"red": 9})


def test_the_same_request_is_the_same_job(world):
    assert world.command(request="r1") == world.command(request="r1")
    assert world.command(request="r2") != world.command(request="r1")
    assert len(world.desk.jobs()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "command or a trainable"),
        ("name: x\ncommand: a\nworkers: {min: 3, max: 1}\n", "less than min"),
        ("name: x\ncommand: a\nworkers: 100\n", "more than training's servers hold"),
        ("name: x\ncommand: a\nworkers: 0\n", "workers"),
        (": [", "job"),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(world, text, said):
    with pytest.raises(BadInputError, match=r".*") as refused:
        world.desk.submit(text)
    assert said in str(refused.value)
    assert world.desk.jobs() == []


def test_nothing_is_started_that_could_not_be_written_down(world):
    world.memory.full = True
    with pytest.raises(CapacityError):
        world.command()
    world.step(times=3)
    assert not world.backend.orders
    assert "the disk is full" in world.desk.status()["troubles"]["memory"]
    world.memory.full = False
    world.step()
    assert len(world.backend.living) == 1
    assert world.desk.jobs()[0]["runs"] == 1


def step_on_a_full_disk(world):
    """As the loop does: a step that fails is made again."""
    world.memory.full = True
    for _ in range(3):
        try:
            world.step()
        except CapacityError:
            continue


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize(("code", "outcome"), [(0, "done"), (3, "failed")])
def test_an_end_that_could_not_be_written_down_is_dealt_with_when_there_is_room_again(world, crash, code, outcome):
    """Also by the controller that comes after one which was killed meanwhile: nobody is believed to be there."""
    job = world.command(workers=4)
    world.step()
    for worker in world.members(job):
        world.backend.exit(worker, code)
    step_on_a_full_disk(world)
    world.memory.full = False
    if crash:
        world.start()
    world.step(times=3)
    assert (world.state(job), world.members(job), world.memory.workers) == (outcome, [], {})
    again = world.command("again", workers=4)
    third = world.command("third", workers=4)
    world.step()
    assert len(world.members(again)) == len(world.members(third)) == 4


def test_a_worker_that_did_its_part_while_the_disk_was_full_did_it_once(world):
    job = world.command(workers=3)
    world.step()
    first, *others = world.members(job)
    world.backend.exit(first)
    step_on_a_full_disk(world)
    world.memory.full = False
    world.start()
    world.step()
    assert world.members(job) == others
    world.start()
    world.step(times=2)
    assert world.members(job) == others
    for worker in others:
        world.backend.exit(worker)
    world.step(times=2)
    assert (world.state(job), len(world.backend.orders)) == ("done", 3)


def test_a_job_that_was_cancelled_on_a_full_disk_is_cancelled_or_runs_but_nothing_between(world):
    job = world.command(workers=2)
    world.step()
    world.memory.full = True
    with pytest.raises(CapacityError):
        world.desk.cancel(job)
    step_on_a_full_disk(world)
    world.memory.full = False
    world.start()
    world.step(times=2)
    assert (world.state(job), len(world.members(job))) == ("running", 2)
    world.desk.cancel(job)
    world.start()
    world.step()
    world.backend.obey()
    world.step(times=2)
    assert (world.state(job), world.members(job)) == ("cancelled", [])


def test_a_worker_that_cannot_be_written_down_is_not_started_and_is_tried_again(world, monkeypatch):
    job = world.command(workers=2)

    def full(workers, entry=None):
        raise CapacityError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(world.memory, "keep_workers", full)
        with pytest.raises(CapacityError):
            world.step()
    assert not world.backend.orders
    world.step()
    assert len(world.members(job)) == len(world.backend.living) == 2


def test_a_step_that_fails_is_told_and_made_again(world, monkeypatch):
    """In the loop: whoever asks while it goes on gets an answer."""
    job = world.command()
    failed, stop = threading.Event(), threading.Event()

    def full(workers, entry=None):
        failed.set()
        raise OSError("no space left")

    monkeypatch.setattr(world.memory, "keep_workers", full)
    loop = threading.Thread(target=world.controller.run, args=(stop,))
    loop.start()
    assert failed.wait(60)
    while "no space left" not in world.desk.status()["troubles"].get("controller", ""):
        assert loop.is_alive()
    monkeypatch.undo()
    while not world.desk.job(job)["members"]:
        assert loop.is_alive()
    assert "controller" not in world.desk.status()["troubles"]
    stop.set()
    loop.join()


def test_a_worker_that_cannot_be_started_is_tried_again(world):
    world.backend.refuse = True
    job = world.command(workers=2)
    world.step(times=2)
    assert "could not be started" in world.desk.status()["troubles"][job]
    world.backend.refuse = False
    world.step(seconds=5, times=3)
    assert len(world.members(job)) == 2
    assert [o.rank for o in world.backend.living.values()] == [0, 1]


class Lending:
    """Inference whose need a test sets; a server is idle when it says so."""

    def __init__(self):
        self.needed, self.busy, self.taken = 1.0, set(), []

    def need(self):
        return self.needed

    def release(self, server):
        return server not in self.busy

    def take_back(self, server):
        self.taken.append(server)


def test_a_quiet_gateway_lends_and_gets_back_only_when_processes_are_gone(tmp_path):
    lender = Lending()
    world = ListedWorld(tmp_path, train=1, infer=2, lender=lender, min_lease_s=0.0, headroom=0.0, hysteresis=0.0)
    job = world.elastic(most=12, more="fungible: true\nheterogeneous: true\n")
    world.step(times=3)
    assert len(world.members(job)) == 4
    lender.needed, lender.busy = 0.0, {"infer-1"}
    world.step(seconds=11, times=3)
    assert {s["id"] for s in world.desk.status()["servers"] if s["pool"] == "onloan"} == {"infer-0"}
    lender.busy = set()
    world.step(seconds=11, times=3)
    assert len(world.members(job)) == 12
    assert world.memory.moves == [("infer-0", True), ("infer-1", True)]
    lender.needed = 1.0
    world.step(seconds=11, times=2)
    assert {s["pool"] for s in world.desk.status()["servers"]} == {"train", "draining"}
    assert lender.taken == []
    leaving = [w["id"] for w in world.desk.job(job)["members"] if w["leaving"]]
    assert len(leaving) == 8
    for worker in leaving:
        world.backend.exit(worker)
    world.step()
    assert sorted(lender.taken) == ["infer-0", "infer-1"]
    assert world.memory.moves[2:] == [("infer-0", False), ("infer-1", False)]
    assert world.state(job) == "running"
    assert len(world.members(job)) == 4


def test_a_controller_that_is_killed_in_the_middle_of_a_reclaim_is_followed_by_one_that_brings_it_to_its_end(tmp_path):
    lender = Lending()
    world = ListedWorld(tmp_path, train=1, infer=2, lender=lender, min_lease_s=0.0, headroom=0.0, hysteresis=0.0)
    elastic = world.elastic("e", most=8, more="fungible: true\n")
    lender.needed = 0.0
    gang = world.command("c", workers=4, more="fungible: true\n")
    world.step(seconds=11, times=3)
    lender.needed = 1.0
    world.step(seconds=11)
    before = set(world.backend.living)
    for _ in range(3):  # killed, and killed again, while they leave
        world.start()
        world.step()
        world.check()
        assert {s["id"] for s in world.desk.status()["servers"] if s["pool"] == "draining"} == {"infer-0", "infer-1"}
        assert lender.taken == []
        assert set(world.backend.living) == before  # nobody is started beside those who leave
    for worker, order in list(world.backend.living.items()):
        if order.server_id != "train-0":
            world.backend.exit(worker, None, 15)
    world.start()
    world.step(times=3)
    assert sorted(lender.taken) == ["infer-0", "infer-1"]
    assert {o.server_id for o in world.backend.living.values()} <= {"train-0"}
    assert {world.state(elastic), world.state(gang)} <= {"running", "queued"}
    world.check()


def test_a_controller_that_is_killed_at_any_point_is_followed_by_one_that_double_books_nothing(tmp_path):
    chance = random.Random(5)
    world = ListedWorld(tmp_path, train=2, infer=1, lender=Lending(), min_lease_s=0.0)
    submitted = []
    for turn in range(250):
        what = chance.random()
        if what < 0.12:
            submitted.append(world.command(f"c{turn}", workers=chance.choice((1, 2, 4))))
        elif what < 0.2:
            submitted.append(world.elastic(f"e{turn}", 1, chance.choice((2, 6)), "fungible: true\n"))
        elif what < 0.45 and world.backend.living:
            world.backend.exit(chance.choice(sorted(world.backend.living)), chance.choice((0, 0, 1)))
        elif what < 0.55:
            world.backend.obey()
        elif what < 0.6:
            world.lender.needed = chance.choice((0.0, 1.0))
        elif what < 0.65:
            step_on_a_full_disk(world)
            world.memory.full = False
        elif what < 0.8:
            world.start()
        world.step(seconds=chance.choice((0.5, 3.0, 12.0)))
        world.check()
        on_inference = {o.server_id for o in world.backend.living.values()} & {"infer-0"}
        pool = {s["id"]: s["pool"] for s in world.desk.status()["servers"]}["infer-0"]
        assert not on_inference or pool in ("onloan", "draining")
    assert [job["id"] for job in world.desk.jobs()] == submitted
    for _ in range(300):
        for worker in sorted(world.backend.living):
            entry = worker.rpartition(".")[0]
            world.crews.said.append(Finished(entry))
        world.step()
        for worker in sorted(world.backend.living):
            world.backend.exit(worker)
        world.step()
    assert {job["state"] for job in world.desk.jobs()} <= {"done", "failed"}
    assert not world.controller.cluster.runs
    assert world.controller.cluster.room.free == [4, 4, 4]
