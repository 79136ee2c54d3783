"""A text is cut once, in order, and no token is in two parts."""

import pytest
from tiny_trained import story, tokenizer

from quiltwork.core.errors import BadInputError
from quiltwork.serving.stitching.text import split_text
from quiltwork.serving.text import TextCodec

CODEC = TextCodec(tokenizer(), {})


def test_the_parts_follow_one_another_and_never_overlap():
    text = story(300)
    ids = CODEC.encode(text, add_special_tokens=False)
    splits = split_text(text, CODEC, window=16, where="t")
    at = 0
    for part, end in ((splits.train, 0.8), (splits.validation, 0.9), (splits.test, 1.0)):
        assert (part[:, 0] == 1).all(), "every window begins as a prompt does"
        rows = part[:, 1:].flatten().tolist()
        assert rows == ids[at : at + len(rows)]
        assert at + len(rows) <= int(len(ids) * end) < at + len(rows) + 16
        at = int(len(ids) * end)
    assert splits.prefix == 1
    assert splits.predicted(splits.test) == splits.test.shape[0] * 16


def test_a_text_too_short_for_a_window_in_each_part_is_refused():
    with pytest.raises(BadInputError, match=r"short\.txt: has \d+ tokens; at least \d+ are needed"):
        split_text(story(20), CODEC, window=64, where="short.txt")
