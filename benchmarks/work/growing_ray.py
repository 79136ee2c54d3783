"""The job of ``work.growing`` under Ray Train's elastic mode, whose workers become more and fewer as it decides.

Ray Train takes its number of workers from what its coordinator of resources has reserved for the run; a neighbour that
asked first, and asks for one worker's resources or for none, makes it shrink and grow. That is the gentlest way there
is: no node comes or goes, no process is killed but by Ray Train itself, and workers compute until it has decided.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quiltwork.core.errors import QuiltworkError

NEIGHBOUR = "neighbour"
MONITOR_S = 2.0
"""How often Ray Train looks whether it should have another number of workers (60 s by default)."""


def loop(config: Mapping[str, Any]) -> None:
    """What each worker of Ray Train runs: as its guides have it, resumed from the last checkpoint."""
    import ray.train
    import torch
    from ray.train.torch import prepare_model

    from quiltwork.cluster.elastic.sharing import shares
    from work.growing import Notes, Samples, adam, network

    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    model, done = network(config["width"], config["seed"]), 0
    resumed = ray.train.get_checkpoint()
    optimizer = adam(model)
    if resumed is not None:
        with resumed.as_directory() as folder:
            kept = torch.load(Path(folder) / "state.pt", mmap=True, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        done = kept["done"]
    parallel = prepare_model(model, parallel_strategy_kwargs={"gradient_as_bucket_view": True})
    samples, notes = Samples(config["seed"]), Notes(config["notes"])
    while not (_ends_at(config["notes"]) or done + 1) <= done:
        optimizer.zero_grad()
        samples.loss(parallel, shares(samples.ids(done), workers)[rank]).backward()
        optimizer.step()
        done += 1
        notes.add(done, workers)
        if done % config["every"] == 0:
            _save(rank, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done})


def _save(rank: int, state: Mapping[str, Any]) -> None:
    import ray.train
    import torch

    if rank:
        ray.train.report({"done": state["done"]})
        return
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        torch.save(state, Path(folder) / "state.pt")
        ray.train.report({"done": state["done"]}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _ends_at(folder: str) -> int | None:
    """The step after which all are to end, where that was said."""
    try:
        return int((Path(folder) / "end").read_text())
    except (FileNotFoundError, ValueError):
        return None


def memory() -> str | None:
    """A folder in main memory, where there is one: no checkpoint waits for a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Neighbour:
    """Somebody else in the cluster, who wants one worker's resources or none; it has to be there before the run."""

    def __init__(self) -> None:
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        self._coordinator = get_or_create_autoscaling_coordinator()

    def wants(self, cpus: int) -> None:
        """Reserved at once, before anything of the run."""
        import ray
        from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestPriority

        ray.get(
            self._coordinator.request_resources.remote(
                requester_id=NEIGHBOUR, resources=[{"CPU": 1}] * cpus, expire_after_s=1e6,
                priority=ResourceRequestPriority.HIGH,
            )
        )  # fmt: skip


class Run:
    """One elastic training in a thread. notes : the folder of its lines; it is named after that."""

    def __init__(self, notes: Path, config: Mapping[str, Any], least: int, most: int) -> None:
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.WARNING)
        self._notes = notes
        self._kept = tempfile.TemporaryDirectory(dir=memory(), prefix="growing-")
        trainer = TorchTrainer(
            loop,
            train_loop_config={**config, "notes": str(notes)},
            scaling_config=ScalingConfig(
                num_workers=(least, most), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=MONITOR_S
            ),
            run_config=RunConfig(
                name=notes.name, storage_path=self._kept.name, checkpoint_config=CheckpointConfig(num_to_keep=1),
                failure_config=FailureConfig(max_failures=3),
            ),
        )  # fmt: skip
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - whoever asks next is told
            self._failed = error

    def check(self) -> None:
        """Raises QuiltworkError where it has ended by itself."""
        if not self._thread.is_alive():
            raise QuiltworkError(f"it has ended: {self._failed!r}", where="Ray Train")

    def end(self, done: int, within_s: float) -> None:
        """Have it end some steps after ``done``. Raises QuiltworkError where it does not."""
        fresh = self._notes / "end.new"
        fresh.write_text(str(done + 30))
        fresh.rename(self._notes / "end")
        self._thread.join(within_s)
        alive = self._thread.is_alive()
        self._kept.cleanup()
        if alive or self._failed is not None:
            raise QuiltworkError(f"it did not end: {self._failed!r}", where="Ray Train")
