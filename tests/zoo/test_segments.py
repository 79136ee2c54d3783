"""Cuts follow from who owns what: none where nothing is shared, none more than the owner sets change."""

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.zoo.segments import chain_hashes, kv_shape, segments
from quiltwork.zoo.types import Block, Part


def chain(*blocks: str, attached: dict[int, str] | None = None) -> list[Part]:
    attached = attached or {}
    return [
        Part(str(i), Block(b, "x", {}, ()), (Block(attached[i], "lora", {}, ()),) if i in attached else ())
        for i, b in enumerate(blocks)
    ]


def lengths(cut: tuple[range, ...]) -> list[int]:
    return [len(run) for run in cut]


def test_an_unshared_model_is_one_segment():
    assert lengths(segments({"a": chain(*"EABCDH")})["a"]) == [6]


def test_two_equal_models_are_one_segment_each():
    cut = segments({"a": chain(*"EABH"), "b": chain(*"EABH")})
    assert lengths(cut["a"]) == lengths(cut["b"]) == [4]


def test_a_top_layers_fine_tune_is_cut_where_it_parts_and_where_it_joins():
    cut = segments({"base": chain(*"EABCDH"), "top": chain(*"EABXYH")})
    assert lengths(cut["base"]) == lengths(cut["top"]) == [3, 2, 1]


def test_a_model_with_attachments_from_the_first_layer_shares_the_embedding_only_as_cached_state():
    cut = segments({"base": chain(*"EABH"), "lora": chain(*"EABH", attached={1: "p", 2: "q"})})
    assert lengths(cut["base"]) == lengths(cut["lora"]) == [1, 3]


def test_owners_of_one_run_are_cut_alike_even_if_only_one_of_them_needs_the_cut():
    cut = segments(
        {
            "base": chain(*"EABCDH"),
            "high": chain(*"EABCDH", attached={3: "p"}),
            "low": chain(*"EABCDH", attached={1: "q"}),
        }
    )
    assert cut["base"] == cut["high"] == cut["low"]


models = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from("123"), min_size=6, max_size=6), min_size=1, max_size=6
)


@given(models)
def test_segments_cover_each_chain_once_and_are_bounded_by_owner_set_changes(kinds: dict[str, list[str]]):
    chains = {m: chain(*(f"{i}{b}" for i, b in enumerate(blocks))) for m, blocks in kinds.items()}
    cut = segments(chains)
    hashes = {m: chain_hashes(c) for m, c in chains.items()}
    for m, runs in cut.items():
        assert [i for run in runs for i in run] == list(range(6))
        owners = [frozenset(o for o in chains if kinds[o][i] == kinds[m][i]) for i in range(6)]
        sharers = [frozenset(o for o in chains if hashes[o][i] == hashes[m][i]) for i in range(6)]
        for run in runs:
            assert len({owners[i] for i in run}) == 1
            assert len({sharers[i] for i in run}) == 1
        for other, others in cut.items():
            shared = [i for i in range(6) if kinds[other][i] == kinds[m][i]]
            for i in shared:
                if i + 1 in shared:
                    assert any(i in r and i + 1 in r for r in runs) == any(i in r and i + 1 in r for r in others)


def shaped(*links: tuple[str, tuple[int, int] | None]) -> list[Part]:
    arch = [{} if shape is None else {"num_kv_heads": shape[0], "head_dim": shape[1]} for _, shape in links]
    return [Part(str(i), Block(b, "x", a, ())) for i, ((b, _), a) in enumerate(zip(links, arch, strict=True))]


def test_a_chain_is_cut_below_the_block_where_the_shape_of_keys_and_values_changes():
    narrow, wide = (1, 8), (2, 16)
    links = [("E", None), ("A", narrow), ("F", None), ("S", None), ("B", wide), ("G", None), ("H", None)]
    assert lengths(segments({"a": shaped(*links)})["a"]) == [4, 3]
    same = [(name, shape and narrow) for name, shape in links]
    assert lengths(segments({"a": shaped(*same)})["a"]) == [7]


SHAPES = st.sampled_from([None, (1, 8), (2, 8), (2, 16)])


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("ABCDEF"), SHAPES), min_size=1, max_size=10), min_size=1, max_size=4)
)
def test_every_segment_has_one_shape_and_equal_runs_are_cut_alike(chains):
    named = {i: shaped(*((f"{block}{shape}", shape) for block, shape in chain)) for i, chain in enumerate(chains)}
    for i, cut in segments(named).items():
        assert [at for run in cut for at in run] == list(range(len(named[i])))
        for run in cut:
            assert (
                len(
                    {shape for shape in (kv_shape(part.block.arch) for part in named[i][run.start : run.stop]) if shape}
                )
                <= 1
            )
