"""The examples are scripts, not a package: they are imported from their folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "examples"))


@pytest.fixture
def models() -> Path:
    return PROJECT / "examples" / "models"
