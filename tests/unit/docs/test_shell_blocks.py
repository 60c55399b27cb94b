"""Every shell block of the documentation is run by a test, or not_run.tsv says why it is not."""

import csv
from pathlib import Path

import pytest
from coding_agent_docs.blocks import Block, script
from coding_agent_docs.paths import DOCS, ROOT

from tests.sweep.docs import played
from tests.sweep.docs.played import not_played

LIST = Path(__file__).with_name("not_run.tsv")
"""Page, first command of the block, and the reason in one line."""


def key(block: Block) -> tuple[str, str]:
    """Page and first command: what the list names a block by, so that a changed page does not move it."""
    first = next(line for line in script(block).splitlines() if line.strip())
    return str(block.page.relative_to(ROOT)), first.split("  #")[0].strip()


def listed() -> list[tuple[str, str, str]]:
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(page, command, reason) for page, command, reason in rows[1:]]


def test_every_shell_block_is_run_or_listed_with_a_reason() -> None:
    reasons = {(page, command): reason for page, command, reason in listed()}
    missing = [key(block) for block in not_played() if key(block) not in reasons]
    assert missing == [], f"mark them to be run (docs/development.md), or say in {LIST.name} why not"
    assert [entry for entry, reason in reasons.items() if not reason] == []


def test_the_list_has_no_block_that_is_run_or_gone() -> None:
    left = {key(block) for block in not_played()}
    entries = [(page, command) for page, command, _ in listed()]
    assert [entry for entry in entries if entry not in left] == []
    assert entries == sorted(set(entries)), f"sort {LIST.name}, and name each block once"


def test_a_named_test_exists() -> None:
    named = {word for *_, reason in listed() for word in reason.split() if word.startswith("tests/")}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("setting", "left"), [("checkout", []), ("nowhere", ["echo 1\n"]), ("quick-start", ["echo 1\n"])]
)
def test_a_mark_counts_only_where_a_test_runs_it(
    setting: str, left: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A setting that no test has, or a page that its test does not run, does not count."""
    page = tmp_path / "page.md"
    page.write_text(f"<!-- run: {setting} -->\n```sh\necho 1\n```\n")
    monkeypatch.setattr(played, "pages", lambda: [page, DOCS / "quick-start.md"])
    monkeypatch.setattr(played, "ROOT", Path("/"))
    assert [block.text for block in not_played() if block.page == page] == left
