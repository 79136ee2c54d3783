from __future__ import annotations

import pytest

from quiltwork.core.bench import benchmark_of, discover, find_folder
from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError

GOOD = """
from quiltwork.core.bench import Claim, Outcome, at_least
from shared_{stem} import VALUE
CLAIMS = (Claim("room.{name}", "room", "t", at_least(2), "baseline/ours", "s"),)
def run(context):
    return {{"room.{name}": Outcome([1.0], [VALUE])}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    made = tmp_path / "project" / "benchmarks"
    made.mkdir(parents=True)
    monkeypatch.syspath_prepend(made)
    return made


def benchmark(folder, stem, name=None):
    (folder / f"shared_{stem}").mkdir()
    (folder / f"shared_{stem}" / "__init__.py").write_text("VALUE = 3.0\n")
    (folder / f"{stem}.py").write_text(GOOD.format(stem=stem, name=name or stem))


def test_the_folder_is_found_from_anywhere_below(folder):
    below = folder.parent / "src" / "deep"
    below.mkdir(parents=True)
    assert find_folder(below) == find_folder(folder) == find_folder(folder.parent) == folder


def test_without_a_folder_it_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="no folder 'benchmarks' here or above"):
        find_folder(tmp_path)


def test_claims_come_from_importing_the_files(folder):
    benchmark(folder, "queue")  # also a module of the standard library
    benchmark(folder, "alpha")
    (folder / "_draft.py").write_text("1 / 0")
    found = discover(folder)
    assert [b.path.name for b in found] == ["alpha.py", "queue.py"]
    assert [c.name for b in found for c in b.claims] == ["room.alpha", "room.queue"]
    assert found[1].run(None)["room.queue"].baseline == [3.0]
    assert benchmark_of("room.queue", found) is found[1]


def test_an_unknown_claim_tells_which_are_called_alike(folder):
    benchmark(folder, "alpha")
    with pytest.raises(NotFoundError, match=r"'room.alhpa'.*did you mean room.alpha"):
        benchmark_of("room.alhpa", discover(folder))


def test_a_claim_declared_twice_is_refused(folder):
    benchmark(folder, "alpha", "same")
    benchmark(folder, "beta", "same")
    with pytest.raises(BadInputError, match=r"beta\.py: room.same is declared in alpha\.py"):
        discover(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "line 1"),
        ("def run(context): ...", "CLAIMS"),
        ("CLAIMS = ()\ndef run(context): ...", "CLAIMS"),
        ("CLAIMS = ('a',)\ndef run(context): ...", "CLAIMS"),
        (
            "from quiltwork.core.bench import Claim, at_least\n"
            "CLAIMS = [Claim('r.a', 'r', 't', at_least(1), 'ours/baseline', 's')]",
            "run",
        ),
        ("from quiltwork.core.bench import at_least\nCLAIMS = [at_least(-1)]", "reach"),
    ],
)
def test_a_file_that_is_no_benchmark_is_named(folder, text, message):
    (folder / "broken.py").write_text(text)
    with pytest.raises(BadInputError, match=message) as caught:
        discover(folder)
    assert "broken.py" in str(caught.value)


def test_a_package_that_is_not_installed_is_named(folder):
    (folder / "needy.py").write_text("import a_package_nobody_has")
    with pytest.raises(QuiltworkError, match=r"needy\.py: needs the package 'a_package_nobody_has'"):
        discover(folder)
