"""The device that a training asks for."""

from __future__ import annotations

import pytest
import torch

from quiltwork.core.errors import BadInputError
from quiltwork.layers.descent import device_named


def test_a_device_that_computes_is_taken():
    assert device_named("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "", "meta", "vulkan", "cuda:99"])
def test_one_that_does_not_is_refused_before_anything_is_made_for_it(name):
    with pytest.raises(BadInputError, match=r"^device: "):
        device_named(name)
