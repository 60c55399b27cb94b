"""People act on a real sandbox forge of each flavor, and the forge's log shows what they did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.git import commit_files, git, set_branch

from tests.chaos.people import Act, Cast, People, plan
from tests.integration.chaos.conftest import BOT, PEOPLE, REPOSITORIES


@dataclass
class PassedClock:
    """A clock whose waits end at once."""

    waits: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return 0.0

    def wait_until(self, at: float) -> bool:
        self.waits.append(at)
        return True


def seen(forge: ForgeServer) -> list[tuple[str, str, str | None]]:
    """Event, actor and label of all that happened."""
    return [(event.event, event.actor, event.label or event.branch) for event in forge.events()]


def test_a_whole_plan_is_performed(forge: ForgeServer) -> None:
    cast = Cast(REPOSITORIES, PEOPLE)
    people, clock = People(forge, cast), PassedClock()
    acts = plan(5, 600.0, 30, cast)
    people.run(acts, clock)
    assert clock.waits == [act.at for act in acts]
    assert [record["kind"] for record in people.performed] == [act.kind for act in acts]
    skipped = [record for record in people.performed if record["skipped"]]
    assert all(
        record["kind"] in ("merge", "push to the task's branch", "reopen", "label") for record in skipped
    ), skipped
    events = [event.event for event in forge.events()]
    assert events.count("labeled") >= 25
    assert {"opened", "labeled", "unlabeled", "closed", "reopened", "commented", "pushed"} <= set(events)


def act(people: People, kind: str, step: int = 0, text: str = "") -> str:
    """Somebody does it to `item-1`."""
    row = people.cast.kinds[kind]
    actor = "eve" if row.role == "stranger" else "ada"
    return people.perform(Act(0.0, kind, step, "item-1", REPOSITORIES[0], actor, text or row.text))


def test_the_bots_change_is_pushed_to_and_merged(forge: ForgeServer) -> None:
    people = People(forge, Cast(REPOSITORIES, PEOPLE))
    assert act(people, "open", text="item-1 works for 0 s") == ""
    number = people.numbers["item-1"]
    branch = f"coding-agent/issue-{number}"
    assert act(people, "merge") == act(people, "push to the task's branch") == "the bot has pushed nothing"
    set_branch(forge.repository(REPOSITORIES[0]).path, branch, "main")
    forge.push(REPOSITORIES[0], branch, {"work.txt": "done\n"}, by=BOT)
    assert act(people, "merge") == "the bot has no change for the item"
    change = forge.open_change(REPOSITORIES[0], branch, "main", by=BOT)
    assert act(people, "push to main") == ""
    assert act(people, "push to the task's branch") == ""
    assert act(people, "merge") == ""
    assert act(people, "merge") == "the bot's change is closed"
    assert forge.item(REPOSITORIES[0], change, "change").merged_at is not None
    files = git(forge.repository(REPOSITORIES[0]).path, "ls-tree", "-r", "--name-only", "main").split()
    assert {"work.txt", "people/item-1.txt", "people/main-item-1.txt"} <= set(files)
    assert seen(forge)[-5:] == [
        ("opened", BOT, branch),
        ("pushed", "ada", "main"),
        ("pushed", "ada", branch),
        ("pushed", "ada", "main"),
        ("merged", "ada", None),
    ]


def test_a_change_that_conflicts_is_not_merged(forge: ForgeServer) -> None:
    people, path = People(forge, Cast(REPOSITORIES, PEOPLE)), forge.repository(REPOSITORIES[0]).path
    act(people, "open", text="item-1 works for 0 s")
    branch = f"coding-agent/issue-{people.numbers['item-1']}"
    set_branch(path, branch, "main")
    forge.push(REPOSITORIES[0], branch, {"README.md": "ours\n"}, by=BOT)
    forge.open_change(REPOSITORIES[0], branch, "main", by=BOT)
    commit_files(path, "main", {"README.md": "theirs\n"}, "Conflict")
    assert "conflicts" in act(people, "merge")


def test_what_makes_no_sense_is_skipped_and_says_why(forge: ForgeServer) -> None:
    people = People(forge, Cast(REPOSITORIES, PEOPLE))
    assert act(people, "close") == "the item does not exist"
    act(people, "open with the label", text="item-1 fails")
    assert act(people, "label") == "the label is on the item already"
    assert act(people, "reopen") == "the item is open already"
    assert act(people, "close") == act(people, "unlabel") == ""
    assert act(people, "close") == "the item is closed already"
    assert act(people, "unlabel") == "no label asks for work"
    assert act(people, "label") == "the item is closed"
    assert act(people, "reopen") == ""


def test_a_form_applies_the_label_for_a_stranger(forge: ForgeServer) -> None:
    people = People(forge, Cast(REPOSITORIES, PEOPLE))
    act(people, "form of a stranger", text="item-1 works for 1 s")
    assert seen(forge) == [("opened", "eve", None), ("labeled", "eve", "coding agent")]
    assert act(people, "relabel within a second") == ""
    assert act(people, "relabel within a second", 1) == ""
    assert [event for event, _, _ in seen(forge)][2:] == ["unlabeled", "labeled"]
