from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md"), *(PROJECT / "examples" / "models").glob("*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_every_file_and_function_of_a_requests_life_exists() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text("utf-8")
    source = PROJECT / "src" / "quiltwork"
    told = re.findall(r"`((?:cli|gateway|serving|layers|zoo|core)/\w+\.py)`(?:,\s+`([A-Za-z_.]+)`)?", text)
    assert len(told) > 20
    for file, name in told:
        assert (source / file).is_file(), file
        for word in name.split(".") if name else ():
            assert re.search(rf"\b(?:def|class) {word}\b", (source / file).read_text("utf-8")), f"{file}: {name}"


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (PROJECT / "mkdocs.yml").read_text("utf-8")
    pages = {str(page.relative_to(PROJECT / "docs")) for page in (PROJECT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (make docs installs it)"
)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
