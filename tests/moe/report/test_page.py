"""The page holds all that it draws; what is in the text stays text; a reader sees which tokens were hard."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import CONTRAST, chromium
from moe_figures import TEXT, figures

from quiltwork.core.errors import QuiltworkError
from quiltwork.moe.report.page import page_of, write_page


class Pieces(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.inside, self.tags = False, set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.inside = tag == "i" and "data-k" in given
        if self.inside:
            self.found.append({"text": "", "k": given["data-k"], "class": given["class"]})

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1]["text"] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def pieces(page: str) -> Pieces:
    parser = Pieces()
    parser.feed(page)
    return parser


def test_every_token_is_there_with_its_experts_by_layer() -> None:
    found = pieces(page_of(figures()))
    assert "".join(piece["text"] for piece in found.found)[: len(TEXT) - 1] == TEXT[:-1]
    assert [piece["k"] for piece in found.found[:6]] == ["1,1,1", "1,1,1", "1,1,2", "1,1,1", "1,1,1", "1,1,2"]
    assert found.found[2]["class"] != found.found[0]["class"]
    assert {"svg", "rect", "path", "title"} <= found.tags
    assert not {"dog", "model", "img", "link-x"} & found.tags


def test_nothing_is_asked_for_from_elsewhere() -> None:
    page = page_of(figures())
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert not re.search(r"url\((?!data:)", page)
    assert "{{" not in page


def test_a_model_without_a_training_has_no_pictures_of_one() -> None:
    assert "Over training" in page_of(figures())
    assert "Over training" not in page_of(figures(course=None))
    assert "was asked for" not in page_of(figures(target=None))


def test_unprintable_characters_are_shown_by_number() -> None:
    from quiltwork.moe.report.figures import Piece

    page = page_of(figures(pieces=(Piece("\x07", (1.0, 1.0, 1.0), None),)))
    assert "\\x07" in page
    assert "\x07" not in page


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(QuiltworkError, match="none"):
        write_page(tmp_path / "none" / "page.html", figures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.page
def test_pointing_tells_the_numbers_and_a_layer_may_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, figures())
    with chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))  # noqa: B023
            page.goto(path.as_uri())
            page.hover("#text i:nth-of-type(3)")
            assert page.inner_text("#tip").split("\n")[0] == '"e"1.33 experts, loss 0.500; by layer:'
            assert page.locator("#tip span i").all_inner_texts() == ["1", "1", "2"]
            shades = [page.get_attribute("#text i:nth-of-type(3)", "class")]
            for layer in (1, 3):
                page.check(f"#choice label:nth-child({layer + 1}) input", force=True)
                shades.append(page.get_attribute("#text i:nth-of-type(3)", "class"))
            assert [shade.split()[0] for shade in shades if shade] == ["s5", "s1", "s12"]
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
            ratios = page.evaluate(CONTRAST, [".title p", "#text", ".figures dt", "#subtitle"])
            assert min(ratios) >= 4.5
            assert wrong == []
