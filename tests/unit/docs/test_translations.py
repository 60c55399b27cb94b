"""A translated page names the state of its original, so that a change of the original is not forgotten."""

import hashlib
import re
from pathlib import Path

import pytest
from coding_agent_docs.paths import DOCS, ROOT, pages

MARK = re.compile(r"^<!-- Translated from (?P<original>\S+) (?P<hash>[0-9a-f]{12}) -->$", re.MULTILINE)
GIVEN = ROOT / "docs" / "migration" / "specification.ja.md"
"""The specification of the system, which has no original."""
TRANSLATIONS = [page for page in pages() if page.name.endswith(".ja.md") and page != GIVEN]


def mark(original: Path) -> str:
    """The line of a translation that follows the original as it is now."""
    state = hashlib.sha256(original.read_bytes()).hexdigest()[:12]
    return f"<!-- Translated from {original.name} {state} -->"


def problem(page: Path) -> str:
    """What to do about a translation; empty if it follows its original."""
    original = page.with_name(page.name.replace(".ja.md", ".md"))
    if page.parent == DOCS and page.name == "README.ja.md":
        original = ROOT / "README.md"
    found = MARK.search(page.read_text(encoding="utf-8"))
    if found is not None and found[0] == mark(original):
        return ""
    return (
        f"{page.name} is older than {original.name}. Translate what has changed "
        f"(git log -p -- {original.name}), then write this line below its title:\n{mark(original)}"
    )


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_is_not_older_than_its_original(page: Path) -> None:
    assert not (say := problem(page)), say


def test_a_changed_original_is_noticed(tmp_path: Path) -> None:
    original, page = tmp_path / "page.md", tmp_path / "page.ja.md"
    original.write_text("# Page\n")
    page.write_text("# ページ\n")
    assert "page.ja.md is older than page.md" in problem(page)
    page.write_text(f"# ページ\n\n{mark(original)}\n")
    assert problem(page) == ""
    original.write_text("# Page\n\nMore.\n")
    assert mark(original) in problem(page)
