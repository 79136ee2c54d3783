"""What a trained model spent on a text: every token once, as its layers routed it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_runs import begun, corpus, small

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.trainable import Setup
from quiltwork.moe.report.making import figures_of
from quiltwork.moe.training.result import TrainingResult, read_result
from quiltwork.moe.training.training import MoETraining


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("lm")
    training = begun(folder, steps=20, target_experts=1.3)
    while not training.step().finished:
        pass
    return read_result(folder / "out")


def trained(folder: Path, **changes: object) -> TrainingResult:
    training = MoETraining()
    training.setup(Setup(small(folder, steps=4, **changes), seed=0))
    while not training.step().finished:
        pass
    return read_result(folder / "out")


def test_the_text_is_shown_as_it_is_and_characters_of_several_bytes_are_one_piece(
    result: TrainingResult, tmp_path: Path
) -> None:
    text = "Größe — 中 the cat. " * 20
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    figures = figures_of(result, tmp_path / "text.txt", tokens=200)
    shown = "".join(piece.text for piece in figures.pieces)
    assert text.startswith(shown)
    assert len(shown.encode()) == 200
    assert {"ö", "ß", "—", "中"} <= {piece.text for piece in figures.pieces}
    assert sum(piece.begins for piece in figures.pieces) == 1


def test_shares_load_and_pieces_tell_the_same(result: TrainingResult) -> None:
    figures = figures_of(result, tokens=300)
    assert figures.tokens == len(figures.pieces) == 300  # plain ASCII: a byte each
    for layer in range(2):
        taken = [piece.experts[layer] for piece in figures.pieces]
        assert figures.experts()[layer] == pytest.approx(sum(taken) / 300)
        assert sum(figures.load[layer]) == sum(taken)
        assert sum(figures.shares[layer]) == pytest.approx(1)
    losses = [piece.loss for piece in figures.pieces]
    assert losses[0] is None
    assert figures.flops["model"] < figures.flops["most"]
    assert figures.course is not None
    assert figures.course.steps == (10, 20)
    assert figures.course.held_out_steps == (0, 10, 20)
    assert figures.target == 1.3


def test_a_token_is_told_what_the_model_thought_of_it(result: TrainingResult, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat sees", encoding="utf-8")
    pieces = figures_of(result, tmp_path / "t.txt").pieces
    ids = torch.tensor(list(b"the cat sees"))
    from quiltwork.moe.models import pack

    with torch.no_grad():
        logits = result.model(*pack([ids[:-1]])).logits
    wanted = -torch.log_softmax(logits, -1)[torch.arange(11), ids[1:]]
    assert [piece.loss for piece in pieces[1:]] == pytest.approx(wanted[:-1].tolist(), rel=1e-4)


def test_a_classifier_reads_lines(tmp_path: Path) -> None:
    table = "text\tlabel\n" + "".join(f"{'good' if n % 2 else 'bad'} film {n}\t{n % 2}\n" for n in range(200))
    (tmp_path / "c.tsv").write_text(table, encoding="utf-8")
    result = trained(tmp_path, task="classify", corpus=str(tmp_path / "c.tsv"), tokenizer="byte")
    (tmp_path / "mine.txt").write_text("a good film\n\nbad\n", encoding="utf-8")
    figures = figures_of(result, tmp_path / "mine.txt")
    assert "".join(piece.text for piece in figures.pieces) == "a good filmbad"
    assert [piece.text for piece in figures.pieces if piece.begins] == ["a", "b"]
    assert figures.loss is None


def test_a_translators_halves_read_their_own_language(tmp_path: Path) -> None:
    lines = corpus(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "b.txt").write_text(lines.upper(), encoding="utf-8")
    pair = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    result = trained(tmp_path, task="translate", corpus=pair, tokenizer="byte", length=48)
    figures = figures_of(result, tokens=400)
    for piece in figures.pieces:
        assert (piece.experts[0] is None, piece.experts[1] is None) in ((True, False), (False, True))
        if piece.text.isalpha():
            assert piece.text.isupper() == (piece.experts[0] is None)
    with pytest.raises(UnsupportedError, match="text: a translation is of two texts"):
        figures_of(result, pair and tmp_path / "a.txt")


def test_what_cannot_be_shown_is_named(result: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        figures_of(result, tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 5)
    with pytest.raises(BadInputError, match=r"latin\.txt.*UTF-8"):
        figures_of(result, tmp_path / "latin.txt")
    with pytest.raises(BadInputError, match="tokens: 1 tokens"):
        figures_of(result, tokens=1)


def test_a_dense_model_has_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no layer of experts"):
        figures_of(replace(trained(tmp_path, gate="dense")))
