"""What an agent takes to be there of a request is there, whatever was guessed, refused, moved or lost before."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.serving.agents.session import History, Session


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 12), st.integers(0, 5)),
            st.tuples(st.just("cut"), st.integers(-1, 12), st.just(0)),
        ),
        max_size=20,
    )
)
def test_a_history_holds_the_last_rows_put_at_each_place_and_nothing_behind_a_gap(steps):
    history, expected, fresh = History(), [], iter(range(10_000))
    for what, at, count in steps:
        if what == "put":
            new = [next(fresh) for _ in range(count)]
            history.put(at, torch.tensor(new, dtype=torch.float32).reshape(-1, 1))
            expected = [] if at > len(expected) else expected[:at] + new
        else:
            history.cut(at)
            expected = expected[: max(at, 0)]
        assert history.rows == len(expected)
        assert history.nbytes == 4 * len(expected)
        if expected:
            assert history.upto(len(expected)).flatten().tolist() == expected


class Place:
    """An agent with one segment: a session, and the token that each of its rows was computed of."""

    def __init__(self):
        layout = SimpleNamespace(cut=SimpleNamespace(kv_bytes=(1,)))
        self.session = Session(None, layout, 0, [0], [0])
        self.rows = []

    def arrive(self, start, certain, mine):
        self.session.certain = certain
        if self.session.guesses:
            self.session.settle(0, start, mine=mine)
            self.session.guesses = self.session.ahead != self.session.computed

    def give(self, start):
        if self.session.guesses:
            self.session.settle(0, start, mine=True)
        assert self.session.has(0) >= start
        return self.rows[:start]

    def run(self, start, tokens):
        self.rows[start : start + len(tokens)] = tokens
        self.session.ran(0, start + len(tokens))


@settings(deadline=None)
@given(st.data())
def test_rows_that_an_agent_relies_on_are_of_the_tokens_that_were_drawn(data):
    places, truth, owner, tokens = [Place(), Place(), Place()], [0], None, iter(range(1, 10_000))
    for _ in range(data.draw(st.integers(1, 14))):
        here = data.draw(st.sampled_from(places))
        start = len(truth) - 1
        guesses = [next(tokens) for _ in range(data.draw(st.integers(0, 4)))]
        here.arrive(start, len(truth) if guesses else None, here is owner)
        first = start
        if here.session.has(0) < start:
            if owner is not None and owner is not here and data.draw(st.booleans()):
                here.rows[:start] = owner.give(start)
                here.session.ran(0, max(start, here.session.ahead[0]))
            else:
                first = 0
        assert here.rows[:first] == truth[:first]
        here.run(first, truth[first:] + guesses)
        if data.draw(st.booleans(), label="the answer is lost"):
            continue
        right = data.draw(st.integers(0, len(guesses)))
        truth += [*guesses[:right], next(tokens)]
        owner = here
