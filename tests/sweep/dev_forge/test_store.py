"""The rules of changing a forge's state, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from coding_agent_forge.errors import Refused
from coding_agent_forge.model import Flavour, Happening, Repository, Tips, User
from coding_agent_forge.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE = User(1, "alice", "Alice", "t", admin=True)


class World:
    """A store with one repository, and what it told."""

    def __init__(self, flavour: Flavour) -> None:
        self.store = Store(flavour, lambda: NOW)
        self.repository = Repository(1, "acme", "one", Path("/nowhere"), NOW)
        self.store.repositories.append(self.repository)
        self.told: list[Happening] = []
        self.store.listener = self.told.append

    def change(self, head: str = "fix") -> int:
        return self.store.open_change(
            self.repository, ALICE, title="Fix", body="", head=head, base="main", tips=Tips("a", "b", 1)
        ).number


@pytest.fixture
def github() -> World:
    return World(Flavour.GITHUB)


@pytest.fixture
def gitlab() -> World:
    return World(Flavour.GITLAB)


def test_github_counts_issues_and_pull_requests_together(github: World) -> None:
    assert github.store.open_item(github.repository, ALICE, title="one").number == 1
    assert github.change() == 2


def test_gitlab_counts_them_apart(gitlab: World) -> None:
    assert gitlab.store.open_item(gitlab.repository, ALICE, title="one").number == 1
    assert gitlab.change() == 1


@pytest.mark.parametrize(("flavour", "status"), [(Flavour.GITHUB, 422), (Flavour.GITLAB, 409)])
def test_one_open_change_a_branch(flavour: Flavour, status: int) -> None:
    world = World(flavour)
    first = world.change()
    with pytest.raises(Refused) as refused:
        world.change()
    assert refused.value.status == status

    item = world.repository.items[-1]
    world.store.update(world.repository, item, ALICE, opened=False)
    assert world.change() == first + 1


def test_github_does_not_tell_cases_of_labels_apart_and_gitlab_does(github: World, gitlab: World) -> None:
    for world, labels in ((github, ["Bug"]), (gitlab, ["Bug", "bug"])):
        item = world.store.open_item(world.repository, ALICE, title="one", labels=["Bug"])
        world.store.update(world.repository, item, ALICE, add=["bug"])
        assert [label.name for label in item.labels] == labels


def test_a_swap_is_one_happening_with_both_labels(gitlab: World) -> None:
    item = gitlab.store.open_item(gitlab.repository, ALICE, title="one", labels=["old"])

    gitlab.store.update(gitlab.repository, item, ALICE, add=["new"], remove=["old", "absent"])

    last = gitlab.told[-1]
    assert [label.name for label in last.added] == ["new"]
    assert [label.name for label in last.removed] == ["old"]
    assert last.before is not None
    assert [label.name for label in last.before.labels] == ["old"]


def test_nothing_is_told_when_nothing_changes(github: World) -> None:
    item = github.store.open_item(github.repository, ALICE, title="one", labels=["there"])
    github.told.clear()

    github.store.update(github.repository, item, ALICE, title="one", add=["there"], remove=["absent"])
    github.store.update(github.repository, item, ALICE, opened=True)

    assert github.told == []


def test_a_merged_change_stays_closed(github: World) -> None:
    github.change()
    item = github.repository.items[-1]
    github.store.merged(github.repository, item, ALICE)

    github.store.update(github.repository, item, ALICE, opened=True)

    assert not item.open
