"""What a model weighs is known before it is made, and one that does not fit is not made."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, NullExperts, TopK, build_model
from quiltwork.moe.models import ModelShape
from quiltwork.moe.models.build import TASKS
from quiltwork.moe.models.size import parameters_of, require_memory

SHAPE = ModelShape(vocabulary=40, width=16, inner=8, layers=3, heads=4, kv_heads=2, experts=4, classes=3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("gates", [(None, TopK(2), Adaptive(0.1)), (None,) * 3, (NullExperts(nulls=8),) * 3])
def test_it_is_counted_as_it_is_made(task, gates):
    made = build_model(task, SHAPE, gates, 0)
    assert parameters_of(task, SHAPE, gates) == sum(one.numel() for one in made.parameters())


def test_what_is_larger_than_the_machine_is_refused_by_a_line():
    gates = (TopK(2),) * 3
    needed = 16 * parameters_of("lm", SHAPE, gates)
    require_memory("lm", SHAPE, gates, 0, needed, where="config")
    with pytest.raises(BadInputError, match=r"config: [0-9,]+ weights take .* while it learns, and this machine has"):
        require_memory("lm", SHAPE, gates, 0, needed - 1, where="config")
    with pytest.raises(BadInputError, match=r"config: 1,000,000 tokens at once take .* at least while it learns"):
        require_memory("lm", SHAPE, gates, 10**6, needed + 10**8, where="config")
