"""Pages hang together: links lead somewhere, the translation keeps step, nothing tells of a machine."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

import pytest

from docs import pages

PAGES = pages.pages()
COMMANDS = ("make", "atoll", "python", "pg_dump")


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", pages.without_code(text))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(pages.read(page)):
        if link.startswith(("https:", "http:", "mailto:")):
            continue
        path, _, fragment = urllib.parse.unquote(link).partition("#")
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if fragment:
            anchors = [pages.anchor(heading) for heading in pages.headings(target.read_text("utf-8"))]
            assert fragment in anchors, f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_tell_of_no_machine_and_no_registry(page: str) -> None:
    text = pages.read(page)
    assert not re.search(r"/root/|/home/\w+|index-url|localhost:\d", text)
    assert not re.search(r"(?<![\w`])#\d+\b|\bissue \d", text, re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES)
def test_code_is_fenced_with_its_language(page: str) -> None:
    for block in pages.blocks(pages.read(page)):
        if block.text.lstrip().split(" ")[0] in COMMANDS:
            assert block.language == "sh", block.text


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[str] = set()
    waiting = ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(pages.read(page)):
            if ":" in link or link.startswith("#"):
                continue
            target = ((pages.ROOT / page).parent / link.partition("#")[0]).resolve()
            target = target / "README.md" if target.is_dir() else target
            if target.suffix == ".md" and target.is_relative_to(pages.ROOT):
                waiting.append(str(target.relative_to(pages.ROOT)))
    assert reached == set(PAGES)


def test_the_chinese_readme_keeps_step() -> None:
    english, chinese = pages.read("README.md"), pages.read("docs/zh/README.md")
    levels = [[h.split(" ")[0] for h in pages.headings(text)] for text in (english, chinese)]
    assert levels[0] == levels[1]
    assert pages.blocks(english) == pages.blocks(chinese)
    here, there = (
        {(base / link).resolve() if ":" not in link else link for link in links(text)}
        for base, text in ((pages.ROOT, english), (pages.ROOT / "docs" / "zh", chinese))
    )
    other = {(pages.ROOT / "README.md").resolve(), (pages.ROOT / "docs" / "zh" / "README.md").resolve()}
    assert here - other == there - other


def test_figures_have_their_place() -> None:
    assert re.search(r"<!-- figures -->\n.*?<!-- end of figures -->", pages.read("README.md"), re.DOTALL)


def test_every_command_that_pages_show_exists() -> None:
    from docs.test_docs_reference import commands

    known = {name.split()[0] for name in commands()}
    for page in PAGES:
        text = pages.read(page)
        shown = {
            name
            for block in pages.blocks(text)
            if block.language == "sh"
            for name in re.findall(r"(?:^|\(|until |! )atoll ([a-z]\w*)", block.text, re.MULTILINE)
        }
        shown |= set(re.findall(r"`atoll ([a-z]\w*)[^`]*`", text))
        assert shown <= known, f"{page} shows {shown - known}"


def test_examples_are_listed() -> None:
    programs = {path.name for path in (pages.ROOT / "examples").glob("*.py")}
    assert programs == set(re.findall(r"\[(\w+\.py)\]", pages.read("examples/README.md")))


def test_decisions_are_listed() -> None:
    folder: Path = pages.ROOT / "docs" / "decisions"
    listed = re.findall(r"\| \[\d{4}\]\((.+?)\) \| (.+?) \|", pages.read("docs/decisions/README.md"))
    titles = [
        (path.name, path.read_text("utf-8").splitlines()[0].partition(" · ")[2])
        for path in sorted(folder.glob("0*.md"))
    ]
    assert listed == titles
