"""A process that searches: its index, its encoder, its memory."""

from __future__ import annotations

from pathlib import Path


class SearchServer:
    """Answers one query after another, as ``quiltwork text search`` does, the index and the encoder in memory."""

    def __init__(self, folder: Path, cores: int) -> None:
        from quiltwork.text.models import model_at
        from quiltwork.text.search import Index

        self._index = Index(folder)
        self._embedder = model_at(self._index.meta.model, threads=cores)

    def ask(self, query: str, k: int) -> list[int]:
        """Rows of the nearest sentences, whose texts are read as well."""
        (hits,) = self._index.search([query], self._embedder, k)
        return [hit.row for hit in hits]

    def memory(self) -> dict[str, int]:
        """Resident bytes of this process, now and at most so far (``/proc/self/status``)."""
        lines = Path("/proc/self/status").read_text().splitlines()
        held = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)
                if name in ("VmRSS", "VmHWM")}  # fmt: skip
        return {"now": held["VmRSS"], "most": held["VmHWM"]}
