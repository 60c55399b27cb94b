"""Which files are instructions for agents: of which branch, and which of its tree."""

from __future__ import annotations

import pytest
from coding_agent_consumer.background import project_branch, select
from coding_agent_consumer.repository import TreeEntry, parse_tree
from coding_agent_core.forge.values import BranchFacts


def entry(path: str, mode: str = "100644") -> TreeEntry:
    return TreeEntry(mode, "0" * 40, path)


@pytest.mark.parametrize(
    ("base", "default", "protected", "expected"),
    [
        ("main", "main", False, "main"),
        ("main", "main", True, "main"),
        ("attic", "main", False, "main"),
        ("release/1", "main", True, "release/1"),
        ("coding-agent/issue-1", "main", False, "main"),
        ("coding-agent/issue-1", "main", True, "main"),
        ("main", "trunk", False, "trunk"),
        ("main", None, False, None),
    ],
)
def test_the_branch_that_counts_for_a_change(
    base: str, default: str | None, protected: bool, expected: str | None
) -> None:
    assert project_branch(base, BranchFacts(default, protected), "coding-agent/") == expected


def test_those_of_the_root_come_first_then_nested_ones_from_the_root_down() -> None:
    paths = [
        "web/deep/AGENTS.md",
        "api/AGENTS.md",
        ".github/copilot-instructions.md",
        "web/AGENTS.md",
        "GEMINI.md",
        "CLAUDE.md",
        "AGENTS.md",
        "README.md",
        "docs/CLAUDE.md",
        "docs/MYAGENTS.md",
    ]
    assert [found.path for found in select(map(entry, paths))] == [
        "AGENTS.md",
        "CLAUDE.md",
        "GEMINI.md",
        ".github/copilot-instructions.md",
        "api/AGENTS.md",
        "web/AGENTS.md",
        "web/deep/AGENTS.md",
    ]


def test_links_and_submodules_are_left_out() -> None:
    tree = [entry("AGENTS.md", "120000"), entry("CLAUDE.md"), entry("sub/AGENTS.md", "160000")]
    assert [found.path for found in select(tree)] == ["CLAUDE.md"]


def test_a_tree_is_read_whatever_its_names_hold() -> None:
    listing = b"100644 blob aa\tone\x00120000 blob bb\ta\ttab\nline\x00160000 commit cc\tsub\x00"
    assert parse_tree(listing) == [
        TreeEntry("100644", "aa", "one"),
        TreeEntry("120000", "bb", "a\ttab\nline"),
        TreeEntry("160000", "cc", "sub"),
    ]
