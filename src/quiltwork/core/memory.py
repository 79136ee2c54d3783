"""How much memory this machine has."""

from __future__ import annotations

import os


def physical_bytes() -> int:
    """All of it, whoever uses it now."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
