"""A headless browser for tests that are marked ``page``."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


@contextmanager
def chromium():
    """The browser of this machine; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


CONTRAST = """(selectors) => { const lum = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255;
  return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return .2126*r + .7152*g + .0722*b; };
  const back = lum(getComputedStyle(document.querySelector('section')).backgroundColor);
  return selectors.map(s => {
    const c = lum(getComputedStyle(document.querySelector(s)).color);
    return (Math.max(c, back) + .05) / (Math.min(c, back) + .05); }); }"""
"""How far texts stand out from the section behind them (WCAG 2): a script for ``page.evaluate``."""
