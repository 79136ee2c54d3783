"""The servers of a study."""

import pytest

from quiltwork.cluster.server import Pool
from quiltwork.cluster.study.fleet import Fleet, types_of
from quiltwork.core.errors import BadInputError


def test_training_has_one_type_and_inference_another():
    fleet = Fleet(2, 1, gpus_per_server=4)
    assert [(s.id, s.gpu_type, s.gpus, s.pool) for s in fleet.servers()] == [
        ("train-0", "V100", 4, Pool.TRAIN),
        ("train-1", "V100", 4, Pool.TRAIN),
        ("infer-0", "T4", 4, Pool.INFER),
    ]
    assert (fleet.training_gpus, fleet.gpu_types, fleet.relative) == (8, ("V100", "T4"), {"V100": 1.0, "T4": 1 / 3})


def test_types_are_named_with_speeds_where_these_are_not_known():
    types, capability = types_of("T4,A100=2.5")
    fleet = Fleet(1, 1, types=types, capability=capability)
    assert fleet.gpu_types == ("A100", "T4")
    assert fleet.relative == pytest.approx({"T4": 1.0, "A100": 7.5})
    assert types_of("V100")[0] == ("V100", "V100")
    assert types_of("V100=2,T4")[1]["V100"] == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100,T4", "types: 'H100' is of no known speed .*H100=2.5; known: V100, T4"),
        ("V100,T4,A100=2", "types: 3 GPU types"),
        ("V100,,T4", "types: '' names no GPU type"),
        ("V100=", "'V100=' names no GPU type"),
        ("V100=fast", "types: V100: 'fast' is not a speed"),
        ("V100=0", "types: V100: 0.0 is not a speed"),
        ("V100=nan", "types: V100: nan is not a speed"),
    ],
)
def test_types_that_make_no_sense_are_refused(text, message):
    def fleet():
        types, capability = types_of(text)
        return Fleet(1, 1, types=types, capability=capability)

    with pytest.raises(BadInputError, match=message):
        fleet()


@pytest.mark.parametrize(
    ("options", "named"),
    [({"train": 0}, "train"), ({"train": 10**9}, "train"), ({"infer": -1}, "infer"), ({"gpus_per_server": 0}, "gpus")],
)
def test_numbers_that_no_fleet_has_are_refused(options, named):
    with pytest.raises(BadInputError, match=named):
        Fleet(**{"train": 1, "infer": 0} | options)
