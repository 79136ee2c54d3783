from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import PUBLIC, ModelRef, check_name, visible_to


@given(st.text())
def test_an_accepted_name_stays_below_any_folder_it_is_joined_to(name):
    try:
        assert check_name(name) == name
    except BadInputError:
        return
    path = PurePosixPath(name)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert str(path) == name
    assert name.isascii()
    assert name.isprintable()


@given(st.text(max_size=5000).map(lambda text: f" {text}"))
def test_a_refusal_is_one_short_line(name):
    with pytest.raises(BadInputError) as caught:
        check_name(name)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,20}(/[A-Za-z0-9][A-Za-z0-9._:@+-]{0,20}){0,3}", fullmatch=True))
def test_plain_segments_are_accepted(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc", "a/", "a//b", "../a", "a/..", ".hidden", "a b", "a\n", "ä", "a\0", "-rf", "x" * 201, "a\\b"],
)
def test_a_name_that_could_be_mistaken_is_refused_and_named(name):
    with pytest.raises(BadInputError, match=r"model: .* is not a name"):
        ModelRef(name)


def test_a_tenant_is_one_segment():
    with pytest.raises(BadInputError, match="tenant"):
        ModelRef("m", "a/b")


def test_a_tenant_sees_its_own_and_the_public_ones():
    mine, theirs, public = ModelRef("m", "me"), ModelRef("m", "them"), ModelRef("m")
    assert [visible_to(ref, "me") for ref in (mine, theirs, public)] == [True, False, True]
    assert public.tenant == PUBLIC


def test_a_ref_is_shown_with_its_tenant_unless_public():
    assert [str(ModelRef("a/b", "me")), str(ModelRef("a/b"))] == ["me::a/b", "a/b"]
