"""People act on the bot's change on a real sandbox forge of each flavor, and its CI checks the change."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.model import Item
from coding_agent_testbed.until import until

from tests.chaos.change_acts import CHANGE_KINDS
from tests.chaos.ci import NAME, Behavior
from tests.chaos.mergeability import records
from tests.chaos.people import Act, Cast, People
from tests.integration.chaos.conftest import BOT, PEOPLE, REPOSITORIES
from tests.integration.chaos.test_people import PassedClock, act

PLACE = REPOSITORIES[0]


@pytest.fixture
def people(forge: ForgeServer) -> People:
    """People who have opened an issue, before the bot has done anything."""
    people = People(forge, Cast(REPOSITORIES, PEOPLE, more_kinds=CHANGE_KINDS))
    assert act(people, "open", text="item-1 works for 0 s") == ""
    return people


@pytest.fixture
def change(people: People, forge: ForgeServer) -> Item:
    """The bot's change for the issue."""
    return open_change(people, forge)


def open_change(people: People, forge: ForgeServer) -> Item:
    branch = f"coding-agent/issue-{people.numbers['item-1']}"
    forge.push(PLACE, branch, {"work.txt": "done\n"}, by=BOT)
    number = forge.open_change(PLACE, branch, "main", by=BOT)
    return forge.item(PLACE, number, "change")


@pytest.fixture
def ci(people: People) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=people.ci.run, args=(over,))
    thread.start()
    yield
    over.set()
    thread.join(30)


def test_reviews_are_in_the_log(people: People, forge: ForgeServer, change: Item) -> None:
    for kind in ("reply in a thread", "resolve a thread"):
        assert act(people, kind) == "the change has no thread"
    kinds = [
        "comment on a line",
        "reply of a stranger in a thread",
        "request changes",
        "approve",
        "mention",
        "resolve a thread",
        "comment on a line by a stranger",
        "reply in a thread",
        "mention by a stranger",
    ]
    assert [act(people, kind) for kind in kinds] == [""] * len(kinds)
    events = [one for one in forge.events() if one.number == change.number and one.kind == "change"]
    said = [(one.event, one.actor, one.state) for one in events if one.event != "opened"]
    first, second = dict.fromkeys(one.thread for one in events if one.thread)
    assert [one.thread for one in events if one.thread] == [first, first, first, second, second]
    on_github = [("reviewed", "ada", "COMMENTED")] if forge.flavour == "github" else []
    by_eve = [("reviewed", "eve", "COMMENTED")] if on_github else []
    text = [] if on_github else [("commented", "ada", None)]
    assert said == [
        *on_github,
        ("review_commented", "ada", None),
        ("review_commented", "eve", None),
        *text,
        ("reviewed", "ada", "CHANGES_REQUESTED"),
        ("reviewed", "ada", "APPROVED"),
        ("commented", "ada", None),
        ("resolved", "ada", None),
        *by_eve,
        ("review_commented", "eve", None),
        ("review_commented", "ada", None),
        ("commented", "eve", None),
    ]


def test_a_conflict_and_its_end_are_in_the_records(people: People, forge: ForgeServer, change: Item) -> None:
    assert act(people, "push to the change's branch") == ""
    assert act(people, "push a conflict to main") == ""
    assert act(people, "close the change") == ""
    assert act(people, "comment on a line") == "the bot's change is closed"
    assert act(people, "reopen the change") == ""
    assert act(people, "reopen the change") == "the bot's change is open, or merged"
    found = list(records(forge, "github.test"))
    assert [one["merges"] for one in found] == [True, True, False]
    assert found[-1]["head"] == found[-2]["head"] == change.tips.head_sha
    assert found[-1]["number"] == change.number


@pytest.mark.parametrize(
    ("behavior", "results"),
    [
        (Behavior.UNTIL_THE_NEXT_PUSH, ["failure", "failure", "success"]),
        (Behavior.FOR_GOOD, ["failure", "failure", "failure"]),
        (Behavior.PASSES_AGAIN, ["failure", "success", "failure"]),
        (Behavior.FAILS_AGAIN, ["success", "failure", "success"]),
    ],
)
def test_ci_checks_each_commit(
    people: People, forge: ForgeServer, change: Item, ci: None, behavior: Behavior, results: list[str]
) -> None:
    """The first commit, the same after a re-run, and another commit."""
    kind = next(
        name
        for name, row in CHANGE_KINDS.items()
        if getattr(row.steps[0].perform, "keywords", {}).get("behavior") is behavior
    )

    def ended() -> str:
        check = people.ci.newest(PLACE, change)
        return check.result if check is not None else ""

    assert act(people, kind) == ""
    found = []
    for step in ("", "again", "push"):
        if step == "again":
            assert act(people, "check passes when it runs again", 1) == ""
        elif step:
            assert act(people, "push to the change's branch") == ""
        until("the end of the check", ended)
        found.append(ended())
    assert found == results
    log = [one for one in forge.events() if one.event == "check" and one.check == NAME]
    assert [one.state for one in log if one.state not in ("running", "queued")] == results
    errors = {one.body for one in log if one.state == "failure"}
    assert len(errors) == (2 if behavior is Behavior.FOR_GOOD else 1)


def test_an_act_waits_for_the_change_and_later_acts_on_the_item_wait_behind_it(
    people: People, forge: ForgeServer
) -> None:
    class Waiting(PassedClock):
        def wait_until(self, at: float) -> bool:
            if at > 6 and not self.waits:
                self.waits.append(at)
                open_change(people, forge)
            return True

    acts = [
        Act(1.0, "mention", 0, "item-1", PLACE, "ada", "@bot"),
        Act(2.0, "close the change", 0, "item-1", PLACE, "ada"),
        Act(50.0, "close the change", 0, "item-1", PLACE, "ada"),
    ]
    people.run(acts, Waiting(), until=49.0)
    assert [record["skipped"] for record in people.performed] == ["", "", "the run was over"]
