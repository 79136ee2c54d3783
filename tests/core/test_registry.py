from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from quiltwork.core import registry
from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError, QuiltworkError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the given text and make it importable."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_spec_resolves_to_the_very_callable(module):
    name = module("plug_ok", "class Outer:\n    @staticmethod\n    def make(): return 7\n")
    assert registry.resolve(f"{name}:Outer.make")() == 7


@pytest.mark.parametrize(
    "spec", ["", "a", "a:", ":b", ".a:b", "a:b:c", "a b:c", "a\0:b", "os.path", "..:x", "a:b()", "x" * 9999]
)
def test_a_malformed_spec_is_refused(spec):
    with pytest.raises(BadInputError, match="not of the form module:factory") as caught:
        registry.resolve(spec)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("spec", ["no_such_module_here:f", "json.nothing:f", "json:no_such_attribute"])
def test_what_is_not_there_is_not_found(spec):
    with pytest.raises(NotFoundError, match=spec):
        registry.resolve(spec)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(BadInputError, match="not callable"):
        registry.resolve("os:sep")


def test_a_missing_extra_names_the_package_and_the_extra(module):
    name = module("plug_needs_fastapi", "raise ModuleNotFoundError('no', name='fastapi.routing')\n")
    with pytest.raises(QuiltworkError) as caught:
        registry.resolve(f"{name}:factory")
    assert "needs the package 'fastapi'" in str(caught.value)
    assert "quiltwork[serving]" in str(caught.value)


def test_a_missing_package_of_somebody_elses_is_named(module):
    name = module("plug_needs_other", "import some_package_nobody_has\n")
    with pytest.raises(QuiltworkError, match=r"needs the package 'some_package_nobody_has' \(pip install some_pack"):
        registry.resolve(f"{name}:factory")


def test_the_packages_own_entry_points_are_found():
    assert "language" in registry.names(registry.SERVABLES)
    assert registry.spec(registry.SERVABLES, "language") == "quiltwork.serving:language_servable"
    assert registry.spec(registry.TRAINABLES, "language") == "quiltwork.serving:language_trainable"
    assert {"embed", "attn", "ffn", "head"} <= set(registry.names(registry.EXECUTORS))


def test_an_unregistered_name_tells_what_is_registered():
    with pytest.raises(NotFoundError, match=r"'langage'.*language"):
        registry.find(registry.SERVABLES, "langage")


def test_a_name_that_two_packages_claim_is_a_conflict(monkeypatch):
    group = "quiltwork.test"
    points = EntryPoints([EntryPoint("a", "one:f", group), EntryPoint("a", "two:f", group)])
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))
    with pytest.raises(ConflictError, match="one:f, two:f"):
        registry.spec(group, "a")


def test_the_same_entry_point_twice_is_none(monkeypatch):
    group = "quiltwork.test"
    points = EntryPoints([EntryPoint("a", "one:f", group), EntryPoint("a", "one:f", group)])
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))
    assert registry.spec(group, "a") == "one:f"
    assert registry.names(group) == ("a",)
