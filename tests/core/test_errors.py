from __future__ import annotations

import pytest

from quiltwork.core.errors import (
    BadInputError,
    CapacityError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    QuiltworkError,
    UnsupportedError,
)


def test_an_error_says_where_what_and_what_to_do():
    assert str(BadInputError("is negative", where="a.json: rank", hint="give 1 or more")) == (
        "a.json: rank: is negative (give 1 or more)"
    )
    assert str(BadInputError("is negative")) == "is negative"


@pytest.mark.parametrize(
    ("kind", "exit_code", "http_status"),
    [
        (QuiltworkError, 1, 500),
        (BadInputError, 2, 400),
        (UnsupportedError, 2, 400),
        (NotFoundError, 2, 404),
        (ConflictError, 1, 409),
        (CapacityError, 1, 429),
        (CorruptionError, 1, 500),
    ],
)
def test_each_kind_has_its_exit_code_and_status(kind, exit_code, http_status):
    assert (kind.exit_code, kind.http_status) == (exit_code, http_status)
    assert issubclass(kind, QuiltworkError)


def test_what_is_unsupported_is_bad_input_with_a_code_of_its_own():
    assert isinstance(UnsupportedError("x"), BadInputError)
    assert UnsupportedError.code != BadInputError.code


def test_no_capacity_says_when_to_come_back():
    assert CapacityError("full", retry_after=3.5).retry_after == 3.5
