"""The report, in a real browser: it asks nobody for anything, draws what was simulated, and can be moved through."""

import json
import re

import pytest
from chromium import CONTRAST, chromium
from small_studies import small_study

from quiltwork.cluster.study.comparison import compare

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    found = compare(small_study(folder), ["fifo", "sjf+loan", "lyra"], report=folder / "page.html", command="a <b> & c")
    return folder / "page.html", found


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser, report):
    opened = browser.new_page(viewport={"width": 1200, "height": 980})
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("console", lambda m: opened.problems.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else opened.problems.append(r.url))
    opened.goto(report[0].as_uri())
    opened.wait_for_selector("#preempted svg")
    yield opened
    assert opened.problems == []
    opened.close()


def shown(page):
    """The range of time that is shown, in words."""
    return page.locator("#range").inner_text()


def test_it_holds_all_it_needs_and_forbids_the_rest(report):
    text = report[0].read_text()
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"']""", text)
    assert "{{" not in text.split('<script type="application/json"')[0]
    assert "a &lt;b&gt; &amp; c" in text


def test_the_table_has_a_column_per_policy_and_says_what_each_share_is_of(page, report):
    table = page.locator("main table")
    assert table.locator("thead th").all_inner_texts() == ["Figure", "fifo", "sjf+loan", "lyra"]
    text = table.inner_text()
    for of in ("allocated, of training's own", "of both clusters'", "fifo's divided by it"):
        assert of in text
    lyra = report[1].outcomes[2].metrics
    row = table.locator("tr", has_text="servers lent, each time")
    assert row.locator("td").all_inner_texts()[2] == f"{lyra.loans:,}"


def test_distributions_are_drawn_for_each_policy_and_read_out(page):
    for chart in ("#queue", "#jct"):
        assert page.locator(f"{chart} polyline").count() == 3
        assert "half within" in page.locator(f"{chart} svg").get_attribute("aria-label")
    page.locator("#jct").hover(position={"x": 300, "y": 100})
    told = page.locator("#spread-detail").inner_text()
    assert re.fullmatch(r"JCT within .+: fifo [\d.]+ % · sjf\+loan [\d.]+ % · lyra [\d.]+ %", told)


def changed(page, before):
    page.wait_for_function("old => document.getElementById('range').textContent !== old", arg=before)
    return shown(page)


def whole_again(page, whole):
    page.wait_for_function("whole => document.getElementById('range').textContent === whole", arg=whole)


def test_time_is_zoomed_by_wheel_buttons_and_keys_and_shown_whole_again(page):
    whole = shown(page)
    page.locator("#pools").click(position={"x": 500, "y": 100})
    page.mouse.wheel(0, -600)
    near = changed(page, whole)
    page.get_by_role("button", name="zoom in").click()
    changed(page, near)
    page.get_by_role("button", name="All").click()
    whole_again(page, whole)
    page.locator("#zoomable").focus()
    for key in ("+", "+", "ArrowRight"):
        before = shown(page)
        page.keyboard.press(key)
        changed(page, before)
    page.keyboard.press("0")
    whole_again(page, whole)


def test_the_wheel_scrolls_the_page_until_the_charts_are_clicked_or_ctrl_is_held(page):
    whole = shown(page)
    page.locator("#pools").hover(position={"x": 500, "y": 100})
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function("before => scrollY > before", arg=before)
    assert shown(page) == whole
    page.locator("#waiting").hover(position={"x": 500, "y": 20})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -600)
    page.keyboard.up("Control")
    changed(page, whole)


def test_dragging_moves_what_was_zoomed(page):
    whole = shown(page)
    page.locator("#zoomable").focus()
    page.keyboard.press("+")
    before = changed(page, whole)
    box = page.locator("#pools").bounding_box()
    page.mouse.move(box["x"] + 600, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 80, steps=4)
    page.mouse.up()
    changed(page, before)


def test_another_policy_is_shown_over_the_same_time(page):
    assert "of lyra" in shown(page)
    page.locator("#arms label", has_text="fifo").click()
    page.wait_for_function("() => document.getElementById('range').textContent.endsWith('of fifo')")
    page.locator("#pools").hover(position={"x": 500, "y": 100})
    assert "0 of 0 lent ones" in page.locator("#time-detail").inner_text()


def test_a_server_says_how_busy_it_was(page, report):
    page.wait_for_function("() => pictures.size > 0")
    canvas = page.locator("#servers")
    box = canvas.bounding_box()
    canvas.hover(position={"x": 200, "y": 4})
    assert "train-0: " in page.locator("#time-detail").inner_text()
    canvas.hover(position={"x": 200, "y": box["height"] - 4})
    assert "infer-3: " in page.locator("#time-detail").inner_text()
    # The cells that the browser unpacked are those that were packed.
    data = json.loads(page.locator("#data").text_content())
    assert page.evaluate("pictures.get(view.arm).cells.length") == data["arms"][2]["bins"] * 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark(page, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    texts = ["h2", ".title p", "tbody th", "tbody th small", ".figures dt", ".legend span", "#range", ".keys"]
    assert min(page.evaluate(CONTRAST, texts)) >= 4.5
    curves = ["#queue .k0", "#queue .k1", "#queue .k2"]
    assert min(page.evaluate(CONTRAST, curves)) >= 3


def test_everything_that_can_be_used_has_a_name(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('svg[role=img], canvas, [tabindex], button, [role=group]')]
          .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_narrow_screen_is_not_scrolled_sideways(page):
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function("() => document.querySelector('#pools svg').viewBox.baseVal.width < 400")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
