import pytest

from quiltwork.cluster.server import Pool, Server, Whitelists
from quiltwork.core.errors import BadInputError, ConflictError

LISTS = Whitelists(frozenset({"t0"}), frozenset({"i0", "i1"}))


def test_a_server_is_lent_and_given_back():
    lent = LISTS.lend(["i0"], epoch=0, request="a")
    assert (lent.training, lent.inference, lent.epoch) == ({"t0", "i0"}, {"i1"}, 1)
    back = lent.give_back(["i0"], epoch=1, request="b")
    assert (back.training, back.inference, back.epoch) == (LISTS.training, LISTS.inference, 2)


def test_who_has_not_read_the_last_epoch_moves_nothing():
    lent = LISTS.lend(["i0"], epoch=0, request="a")
    with pytest.raises(ConflictError, match="at epoch 1, not 0"):
        lent.lend(["i1"], epoch=0, request="b")


def test_a_request_sent_twice_moves_once():
    lent = LISTS.lend(["i0"], epoch=0, request="a")
    assert lent.lend(["i0"], epoch=0, request="a") is lent


def test_only_what_is_on_a_list_can_leave_it():
    with pytest.raises(ConflictError, match="server i9"):
        LISTS.lend(["i0", "i9"], epoch=0, request="a")
    with pytest.raises(ConflictError, match="server i0"):
        LISTS.give_back(["i0"], epoch=0, request="a")


def test_no_server_is_on_both_lists():
    with pytest.raises(BadInputError, match="both whitelists"):
        Whitelists(frozenset({"a"}), frozenset({"a"}))


def test_a_server_has_gpus():
    with pytest.raises(BadInputError, match="at least one GPU"):
        Server("s", "V100", 0, Pool.TRAIN)
