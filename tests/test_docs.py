"""docs/: pages that are made of the code say what the code says, and no page links to what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import COMMAND, FOLDER, PAGES
from manifests import schemas
from pipelines.recipe_keys import encoder_keys, keys

ROOT = Path(__file__).parents[1]
WRITTEN = sorted([*FOLDER.glob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("infra/**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_of_the_code_is_up_to_date(name: str) -> None:
    made, there = PAGES[name]().splitlines(), (FOLDER / name).read_text().splitlines()
    differing = [line for line in made if line not in there] + [line for line in there if line not in made]
    assert made == there, f"run `{COMMAND}` and commit docs/{name}; lines that differ: {differing[:5]}"


def test_every_key_and_every_column_says_what_it_means() -> None:
    all_keys = [*keys(), *(key for of in encoder_keys().values() for key in of)]
    assert not [key.path for key in all_keys if not key.meaning.endswith(".")]
    for name, schema in [("recordings", schemas.RECORDINGS), *schemas.STAGES.items(), ("windows", schemas.WINDOWS)]:
        assert not [column.name for column in schema if b"description" not in (column.metadata or {})], name


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if heading:
            assert heading in anchors(target), f"{page.name} links to {link}, which has no such heading"


def anchors(page: Path) -> set[str]:
    """Names by which headings are linked, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
