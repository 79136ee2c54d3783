"""The room's face: what is listed is there, and listing it costs nothing."""

import json
import subprocess
import sys

import pytest

import quiltwork.cluster as room


def test_everything_that_is_listed_is_there():
    assert list(room.__all__) == sorted(room.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(getattr(room, name) is not None for name in room.__all__)
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        room.nothing  # noqa: B018


def test_importing_the_room_or_asking_it_a_question_imports_nothing_heavy():
    code = (
        "import sys, json, quiltwork.cluster as c\n"
        "first = sorted(sys.modules)\n"
        "c.compare, c.whatif, c.Study, c.read_jobs\n"
        "print(json.dumps([first, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    bare, used = (set(names) for names in json.loads(done.stdout))
    heavy = {"torch", "ortools", "pandas", "sklearn", "scipy", "pyarrow", "numba", "yaml"}
    assert not heavy & used
    assert "numpy" not in bare
    assert not {name for name in bare if name.startswith("quiltwork.cluster.")}
