"""Pretrained encoders: any sentence-transformers or Hugging Face folder, computed on CPUs, nothing downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.encoder.encoder import Encoder, load_encoder
    from quiltwork.text.encoder.packaged import packaged_encoder, packaged_files

_MODULES = {
    "encoder": ("Encoder", "load_encoder"),
    "packaged": ("packaged_encoder", "packaged_files"),
}

__all__ = ["Encoder", "load_encoder", "packaged_encoder", "packaged_files"]

__getattr__, __dir__ = face(__name__, _MODULES)
