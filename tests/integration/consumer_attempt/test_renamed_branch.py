"""The branch that the work starts from is renamed or deleted during an attempt: its facts are read again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_consumer.agent_interface import Brief
from coding_agent_consumer.repository.git import Git
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundKind
from coding_agent_core.task.round_record import RoundEnd

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.ours import BRANCH, FILE, OpenOurs, both
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.scripts import finish, write

FIRST = "coding-agent/issue-1"
NEW = "trunk"

Before = Callable[[str, int, Callable[[], object]], None]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """Let something happen before the attempt's n-th run of this git command against the forge."""

    def planned(command: str, number: int, happens: Callable[[], object]) -> None:
        real, left = Git.remote, [number]

        async def remote(git: Git, arguments: Any, *rest: str) -> bytes:
            left[0] -= arguments[0] == command
            if arguments[0] == command and left[0] == 0:
                await asyncio.to_thread(happens)
            return await real(git, arguments, *rest)

        monkeypatch.setattr(Git, "remote", remote)

    return planned


class Worker:
    """An agent that writes a file."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.works, self.meanwhile = 0, meanwhile

    async def work(self, brief: Brief, workspace: Workspace, **_: object) -> Outcome:
        self.works += 1
        await workspace.write_file("b.md", "b\n")
        await asyncio.to_thread(self.meanwhile)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Say it better.")


def renaming(place: AttemptPlace, name: str = "main") -> Callable[[], None]:
    return lambda: place.system.forge.rename_branch(REPOSITORY, name, NEW)


@both
@pytest.mark.parametrize("command", ["ls-remote", "clone", "the work"])
async def test_the_default_branch_is_renamed_during_an_attempt(
    make_place: MakePlace, before: Before, flavour: str, command: str
) -> None:
    place = make_place(flavour, [])
    during = command == "the work"
    worker = Worker(renaming(place)) if during else Worker()
    if not during:
        before(command, 1, renaming(place))
    outcome = await place.run(place.given(), make_agent=lambda *_: worker)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    [change] = place.system.changes()
    assert (change.base, change.head, worker.works) == (NEW, FIRST, 1)


async def test_the_base_of_a_change_is_renamed_before_its_files_are_read(
    make_place: MakePlace, before: Before
) -> None:
    place = make_place("github", [])
    forge = place.system.forge
    forge.push(REPOSITORY, "fix", {"a.md": "a\n"}, by="alice")
    number = forge.open_change(REPOSITORY, "fix", "main", title="Fix it", by="alice")
    before("fetch", 1, renaming(place))
    worker = Worker()
    outcome = await place.run(place.given_change(number), make_agent=lambda *_: worker)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert place.system.file_at("fix", "b.md") == "b\n"
    assert worker.works == 1


@both
async def test_the_base_of_a_conflict_is_renamed_before_it_is_merged(
    open_ours: OpenOurs, before: Before, flavour: str
) -> None:
    ours = open_ours(flavour)
    ours.push("main", {FILE: "one\ndeux\nthree\n"})
    cause = await ours.look()
    ours.plays(write(FILE, "one\n2 deux\nthree\n"), finish("Kept both words."))
    before("fetch", 2, renaming(ours.place))
    outcome = await ours.round(cause)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert outcome.round is not None
    assert (outcome.round.kind, outcome.round.end) == (RoundKind.CONFLICT, RoundEnd.PUSHED)
    assert ours.content() == "one\n2 deux\nthree\n"
    assert BRANCH in ours.place.branches()


async def test_a_branch_that_is_gone_ends_the_attempt_with_its_name(make_place: MakePlace) -> None:
    place = make_place("gitlab", [])
    forge = place.system.forge
    forge.push(REPOSITORY, "fix", {"a.md": "a\n"}, by="alice")
    number = forge.open_change(REPOSITORY, "fix", "main", title="Fix it", by="alice")
    place.system.git("update-ref", "-d", "refs/heads/main")
    worker = Worker()
    given = place.given_change(number)
    outcome = await place.run(given, make_agent=lambda *_: worker)
    assert (outcome.reason, outcome.exit_code) == (Reason.BRANCH_GONE, 65), outcome.message
    assert "has no branch main any more" in outcome.message
    assert worker.works == 0
