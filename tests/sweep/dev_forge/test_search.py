"""GitHub's search: which items a query finds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from coding_agent_forge.github.search import Term, found, parse
from coding_agent_forge.model import Item, Kind, Label, Repository, User

START = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOT = User(1, "alice", "Alice", "t"), User(2, "bot", "Bot", "t")


def item(number: int, title: str, *labels: str, kind: Kind = Kind.ISSUE, closed: bool = False) -> Item:
    at = START + timedelta(minutes=number)
    made = Item(number, kind, number, title, "", ALICE if number % 2 else BOT, at, at)
    made.labels = [Label(0, name) for name in labels]
    made.closed_at = at if closed else None
    return made


def repository(owner: str, name: str, *items: Item, archived: bool = False) -> Repository:
    return Repository(1, owner, name, Path("/nowhere"), START, items=list(items), archived=archived)


WORLD = [
    repository(
        "acme",
        "one",
        item(1, "Tea is cold", "coding agent"),
        item(2, "Cup is broken", "Coding Agent", "bug", kind=Kind.CHANGE),
        item(3, "Old", "coding agent", closed=True),
    ),
    repository("acme", "two", item(4, "Spoon", "bug")),
    repository("other", "three", item(5, "Fork", "coding agent"), archived=True),
]
WORLD[0].items[0].assignees = [BOT]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("is:issue", [5, 4, 3, 1]),
        ('label:"coding agent" state:open', [5, 2, 1]),
        ('label:"coding agent" is:open is:pr', [2]),
        ('label:"coding agent" label:bug', [2]),
        ("label:bug,unknown", [4, 2]),
        ("repo:acme/two", [4]),
        ("user:ACME", [4, 3, 2, 1]),
        ("org:acme is:closed", [3]),
        ("repo:acme/two repo:other/three", [5, 4]),
        ("assignee:bot", [1]),
        ("author:bot", [4, 2]),
        ("archived:false label:bug", [4, 2]),
        ("archived:true", [5]),
        ("-label:bug state:open", [5, 1]),
        ("broken", [2]),
        ('"tea is"', [1]),
        ("is:issue sort:created-asc", [1, 3, 4, 5]),
        ("nonsense:word", []),
    ],
)
def test_a_query_finds(query: str, numbers: list[int]) -> None:
    assert [hit.number for _, hit in found(WORLD, query)] == numbers


def test_quotes_keep_words_together() -> None:
    assert parse('label:"coding agent" is:issue -state:closed free "two words"') == [
        Term("label", "coding agent"),
        Term("is", "issue"),
        Term("state", "closed", negated=True),
        Term("", "free"),
        Term("", "two words"),
    ]
