"""Measured speeds by GPU type and number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from quiltwork.cluster.curves import MODELS, T4, V100, model_of, read_sia_curves
from quiltwork.core.errors import BadInputError


def measured(tmp_path, text, machine="azure", like="placement,local_bsz,step_time\n1,10,1\n"):
    for model in MODELS:
        (tmp_path / model).mkdir(exist_ok=True)
        for each in ("azure", "aws"):
            (tmp_path / model / f"placements-{each}.csv").write_text(text if each == machine else like)
    return tmp_path


def test_the_best_of_all_batches_and_placements_counts_relative_to_one_v100(tmp_path):
    table = "local_bsz,step_time,placement,sync_time\n10,1,1,0\n30,2,1,0\n15,2,2,0\n30,1,11,0\n30,1,22,0\n"
    curve = read_sia_curves(measured(tmp_path, table))["bert"]
    assert curve[V100][:5] == pytest.approx((1.0, 4.0, 6.0, 8.0, 8.0))
    assert curve[T4] == pytest.approx((10 / 15,) * 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("placement,local_bsz,step_time\n1,10,0\n", r"placements-azure\.csv: line 2: step_time: '0' is not a positive"),
        ("placement,local_bsz,step_time\n1,nan,1\n", "line 2: local_bsz"),
        ("placement,local_bsz,step_time\nx,10,1\n", "line 2: placement: 'x' places no workers"),
        ("placement,local_bsz,step_time\n2,10,1\n", "has no measurement of one worker"),
        ("placement,local_bsz\n1,10\n", "has no column 'step_time'"),
    ],
)
def test_what_is_wrong_with_a_measurement_is_said_with_line_and_field(tmp_path, text, message):
    with pytest.raises(BadInputError, match=message):
        read_sia_curves(measured(tmp_path, text))


def test_a_type_that_nobody_measured_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="gpu_types: 'H100' was not measured"):
        read_sia_curves(tmp_path, ("H100",))


def test_models_are_dealt_evenly_and_the_same_everywhere():
    dealt = [model_of(str(job_id)) for job_id in range(5000)]
    assert dealt[:6] == [model_of(str(job_id)) for job_id in range(6)]
    assert all(count == pytest.approx(1000, abs=120) for count in Counter(dealt).values())
    assert set(dealt) == set(MODELS)


@pytest.mark.realdata
def test_measured_curves_are_those_of_the_published_tables(data_dir):
    curves = read_sia_curves(data_dir / "cluster/profiles/sia")
    assert set(curves) == set(MODELS)
    for curve in curves.values():
        assert (len(curve[V100]), len(curve[T4])) == (16, 16)
        assert curve[V100][0] == 1.0
        assert np.all(np.array([*curve[V100], *curve[T4]]) > 0)
    on_t4 = curves["bert"][T4]
    assert [on_t4[n - 1] / on_t4[0] for n in (2, 4, 5, 8, 16)] == pytest.approx([2.0, 3.9, 3.2, 4.8, 7.8], abs=0.06)
    assert curves["yolov3"][V100][7] == pytest.approx(3.5, abs=0.1)
    assert [round(curves[model][T4][0], 2) for model in MODELS] == [0.31, 0.31, 0.44, 0.32, 0.39]
