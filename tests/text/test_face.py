"""The room's face: what is listed is there, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quiltwork.text as room


def test_everything_that_is_listed_is_there():
    assert list(room.__all__) == sorted(room.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(getattr(room, name) is not None for name in room.__all__)
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        room.nothing  # noqa: B018


def test_the_room_and_its_own_measures_import_nothing_but_the_standard_library():
    code = (
        "import sys, quiltwork.text as t\n"
        "print(*(n for n in sys.modules if n.startswith('quiltwork.text.')))\n"
        "t.similarity('a gene', 'genes', measure='qgram', pipeline='paper'), t.TfIdf\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    bare, used = (set(line.split(" ")) for line in done.stdout.rstrip("\n").split("\n"))
    assert bare == {""}
    assert not {"nltk", "rapidfuzz", "numpy", "torch"} & used
