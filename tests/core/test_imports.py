"""The package and its ground floor bring nothing heavy along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "transformers", "peft", "fastapi", "uvicorn", "httpx", "openai", "numba", "tokenizers", "llguidance"),
    *("jsonschema", "gguf", "huggingface_hub", "prometheus_client", "psutil", "rich", "typer", "safetensors", "blake3"),
}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import quiltwork",
        "import quiltwork.core.servable, quiltwork.core.trainable, quiltwork.core.registry, quiltwork.core.traces",
        "import quiltwork.core.checkpoint, quiltwork.core.run_training",
        "import quiltwork.core.bench, quiltwork.core.batcher, quiltwork.core.units, quiltwork.core.progress",
    ],
)
def test_no_extra_and_no_dependency_but_numpy_is_imported(statement):
    assert loaded_after(statement) & HEAVY == set()


def test_the_package_alone_does_not_even_import_numpy():
    assert "numpy" not in loaded_after("import quiltwork")


def test_the_command_line_imports_no_room_before_one_is_used():
    loaded = loaded_after("import quiltwork.cli")
    assert loaded & {"torch", "transformers", "fastapi", "openai", "numba", "safetensors"} == set()
