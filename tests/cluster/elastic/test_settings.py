"""A worker's settings cross a command line."""

from __future__ import annotations

import pytest

from quiltwork.cluster.elastic.settings import WorkerSettings, read_arguments
from quiltwork.cluster.spec import Batch, Checkpoint, LearningRate
from quiltwork.core.errors import BadInputError

LEAST = {"job": "j", "worker": "w0", "link": "127.0.0.1:5", "trainable": "a:b"}


@pytest.mark.parametrize(
    "settings",
    [
        WorkerSettings(**LEAST),
        WorkerSettings(
            **LEAST,
            config="-c.json",
            seed=-4,
            workdir="/tmp/with space",
            batch=Batch("fixed_local", 8),
            lr=LearningRate(1e-3, "sqrt", 0),
            checkpoint=Checkpoint("/tmp/k", 2.5, on_warning=False),
            threads=2,
            step_log="log",
            orphan_s=1.5,
        ),
        WorkerSettings(**LEAST, logical=4, checkpoint=Checkpoint("k"), backend="nccl", device="cuda:1"),
    ],
)
def test_what_is_given_is_read(settings):
    assert read_arguments(settings.arguments()) == settings


def test_bit_identical_steps_need_batches_that_do_not_hang_on_the_workers():
    with pytest.raises(BadInputError, match="logical: cannot be bit-identical with fixed_local"):
        WorkerSettings(**LEAST, logical=4, batch=Batch("fixed_local"))
    with pytest.raises(BadInputError, match="logical: 0 is not a number"):
        WorkerSettings(**LEAST, logical=0)


@pytest.mark.parametrize("wrong", [["--batch-mode=fixed"], ["--seed=x"], ["--job=a", "--nope"], ["--lr-rule=cubic"]])
def test_wrong_arguments_are_said_and_end_it(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        read_arguments([*WorkerSettings(**LEAST).arguments(), *wrong])
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["nan", "0", "-1", "inf"])
def test_what_is_no_learning_rate_is_refused(rate):
    with pytest.raises(BadInputError, match="--lr"):
        read_arguments([*WorkerSettings(**LEAST).arguments(), f"--lr={rate}"])
