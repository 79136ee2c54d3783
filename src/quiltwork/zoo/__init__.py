"""A zoo of models kept as shared pieces: content-addressed tensors, blocks made of them, models made of blocks."""

from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.zoo.types import Block, Chain, Model, Part, RawTensor, TensorRef
from quiltwork.zoo.zoo import Zoo

__all__ = ["PUBLIC", "Block", "Chain", "Model", "ModelRef", "Part", "RawTensor", "TensorRef", "Zoo"]
