"""The first page, in a real browser."""

from __future__ import annotations

import pytest
from chromium import CONTRAST, chromium
from fake_servable import FakeServable

from quiltwork.core.names import ModelRef
from quiltwork.gateway import create_app

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser, serving):
    names = ("base", "law", "poems", "lora-r8", "code", "tales", "recipes", "full-tune", "head-only")
    with serving(create_app({"language": FakeServable(*map(ModelRef, names))})) as url:
        opened = browser.new_page(viewport={"width": 1200, "height": 980})
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.on("console", lambda m: opened.problems.append(m.text) if m.type == "error" else None)
        opened.on("request", lambda r: None if r.url.startswith(url) else opened.problems.append(r.url))
        for prompt in ("a", "slow b", "slow c d"):
            opened.request.post(f"{url}/v1/completions", data={"model": "law", "prompt": prompt, "max_tokens": 8})
        opened.goto(url)
        opened.wait_for_selector("#quilt td .cell")
        yield opened
        assert opened.problems == []
        opened.close()


def test_a_row_per_model_and_a_cell_per_block(page):
    assert page.locator("#quilt tbody tr").count() == 9
    assert page.locator("#quilt tbody tr").first.locator(".cell").count() == 12


def test_shared_cells_have_one_colour_and_others_have_another(page):
    def colour(row, at):
        cell = page.locator("#quilt tbody tr").nth(row).locator(".cell").nth(at)
        return cell.evaluate("cell => getComputedStyle(cell).backgroundColor")

    assert colour(0, 0) == colour(1, 0)
    assert colour(0, 0) != colour(0, 1)
    assert colour(0, 11) != colour(1, 11)


def test_a_cell_tells_what_it_is_when_pointed_at_or_focused(page):
    cell = page.locator("#quilt tbody tr").first.locator(".cell").first
    cell.hover()
    assert "shared by" in page.locator("#detail").inner_text()
    page.locator("#quilt tbody tr").nth(3).locator(".cell").nth(1).focus()
    assert "lora" in page.locator("#detail").inner_text()


def test_a_model_can_be_explained_and_closed_again(page):
    page.locator("#quilt tbody tr").nth(1).get_by_role("link", name="explain law").click()
    panel = page.locator("#explained")
    panel.locator("tbody tr").first.wait_for()
    assert panel.locator("h2").inner_text() == "law"
    assert "197 kB of its 1.5 MB" in panel.inner_text()
    assert panel.locator("tbody tr").count() == 2
    assert "embed .. layers.4.ffn" in panel.locator("tbody tr").first.inner_text()
    assert "base, code, full-tune, head-only, lora-r8, poems, 2 more" in panel.locator("tbody tr").first.inner_text()
    assert panel.locator("tbody tr").last.inner_text().endswith("no other")
    panel.get_by_role("button", name="Close").click()
    assert panel.is_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "explain law"


def test_substitutions_are_shown_where_a_model_has_some(page):
    assert page.locator(".substituted").count() == 1
    row = page.locator("#quilt tbody tr", has_text="poems")
    assert row.locator(".substituted").inner_text() == "1 substituted"
    row.get_by_role("link", name="explain poems").click()
    swaps = page.locator("#explained .swaps tbody tr")
    swaps.wait_for()
    assert swaps.inner_text().split("\t") == ["layers.2.attn", "another model", "0.0020", "0.0020", "0.0100"]
    page.get_by_role("link", name="explain law").click()
    page.get_by_text("law", exact=True).first.wait_for()
    swaps.wait_for(state="detached")


def test_what_cannot_be_explained_is_said_in_its_place(page):
    page.route("**/v1/explain/**", lambda route: route.fulfill(status=404, json={"error": {"message": "gone <b>"}}))
    page.locator("#quilt tbody tr").first.get_by_role("link").click()
    page.locator("#explained").wait_for()
    assert page.locator("#explained").inner_text().split() == ["base", "gone", "<b>", "Close"]
    page.unroute("**/v1/explain/**")
    page.route("**/v1/explain/**", lambda route: route.abort())
    page.locator("#quilt tbody tr").last.get_by_role("link").click()
    page.get_by_text("the server does not answer").wait_for()
    page.problems.clear()  # the browser reports failed requests itself


def test_figures_and_latency_are_shown(page):
    page.wait_for_selector("#latency svg rect")
    text = page.locator("main").inner_text()
    assert "9.0 MB" in text
    assert "12 sequences of 5 models" in text
    assert page.locator("#latency svg rect").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark(page, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    contrast = page.evaluate(CONTRAST, ["h2", ".title p", "th", "dt"])
    assert min(contrast) >= 4.5


def test_with_keys_a_tenants_models_are_explained_to_it(browser, serving, keys, tenants):
    with serving(create_app({"language": tenants}, keys=keys[0])) as url:
        opened = browser.new_page()
        opened.goto(url)
        opened.get_by_label("This server asks for an API key").fill(keys[1]["red"])
        opened.get_by_role("button", name="Show").click()
        opened.get_by_role("link", name="explain red::mine").click()
        row = opened.locator("#explained tbody tr").first
        row.wait_for()
        assert row.inner_text().endswith("base, 2 more")
        assert "blue" not in opened.locator("body").inner_text()
        opened.close()
