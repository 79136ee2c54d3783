from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.units import format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("8GB", 8_000_000_000),
        ("8 gb", 8_000_000_000),
        ("500MiB", 500 * 2**20),
        ("1.5k", 1500),
        (".5Ki", 512),
        ("2T", 2 * 10**12),
        (" 3B ", 3),
    ],
)
def test_sizes_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "1e3", "8GBB", "8 G B", "1..5", "inf", "nan", "8i", "8iB", "٣", "1_000", "9" * 100, "8 xB"]
)
def test_what_is_no_size_is_refused_and_the_field_named(text):
    with pytest.raises(BadInputError, match=r"^--memory: .*is not a size") as caught:
        parse_bytes(text, where="--memory")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_050_000, "1.1 MB"),
        (999_950, "1.0 MB"),
        (999_949, "999.9 kB"),
        (-2_000_000, "-2.0 MB"),
        (5 * 10**18, "5,000.0 PB"),
    ],
)
def test_sizes_as_they_are_shown(count, text):
    assert format_bytes(count) == text


@given(st.integers(0, 10**15))
def test_a_shown_size_is_read_as_nearly_the_same(count):
    shown = format_bytes(count).replace(",", "").replace("bytes", "").replace("byte", "")
    assert parse_bytes(shown) == pytest.approx(count, rel=0.051)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5s", 1.5),
        ("200ms", 0.2),
        ("2m", 120),
        ("1h30m", 5400),
        ("5us", 5e-6),
        ("1d", 86400),
        (".5", 0.5),
    ],
)
def test_durations_as_people_write_them(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1x", "-1s", "1s garbage", "1h 30m", "inf", "nan", "1" * 100])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(BadInputError, match=r"grace: .*is not a duration"):
        parse_duration(text, where="grace")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000123, "12 µs"),
        (0.00344, "3.4 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 m 00 s"),
        (125, "2 m 05 s"),
        (3599.6, "1 h 00 m"),
        (5400, "1 h 30 m"),
        (-5, "-5.0 s"),
    ],
)
def test_durations_as_they_are_shown(seconds, text):
    assert format_duration(seconds) == text
