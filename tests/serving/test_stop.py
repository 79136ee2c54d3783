from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.stop import StopScanner, StopStrings

letters = st.text("ab c", min_size=1, max_size=4)


def reference(text, stops):
    """Text before the first completed stop (the longer of two completed together), and that stop."""
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            stop = max(matches, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(st.lists(letters, min_size=1, max_size=8), st.lists(st.text("ab c", max_size=5), max_size=8))
def test_the_text_ends_before_the_first_stop_however_it_is_cut_into_pieces(stops, pieces):
    scanner = StopScanner(StopStrings(stops))
    shown, matched = "", None
    expected, expected_stop = reference("".join(pieces), stops)
    for piece in pieces:
        text, matched = scanner.push(piece)
        shown += text
        assert expected.startswith(shown), "text beyond the stop was shown"
        if matched is not None:
            break
    if matched is None:
        shown += scanner.flush()
    assert (shown, matched) == (expected, expected_stop)


def test_only_what_may_become_a_stop_is_held_back():
    scanner = StopScanner(StopStrings(["STOP", "Sto"]))
    assert scanner.push("one S") == ("one ", None)
    assert scanner.push("TO") == ("", None)
    assert scanner.push("x") == ("STOx", None)
    assert scanner.push("Sto") == ("", "Sto")


def test_ten_thousand_stop_strings_take_bounded_work_per_character():
    class Counting(StopStrings):
        calls = 0

        def begins(self, text):
            Counting.calls += 1
            return super().begins(text)

    stops = Counting([f"{'ab' * (i % 7)}stop{i}" for i in range(10_000)])
    scanner = StopScanner(stops)
    text = "abababs stop abst " * 500
    shown = "".join(scanner.push(c)[0] for c in text) + scanner.flush()
    assert shown == text
    assert Counting.calls <= 2 * len(text)
