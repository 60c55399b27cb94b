"""Commands are executed for those who may give them, once, and again after a failure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.errors import (
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    QueueUnavailableError,
)
from coding_agent_core.forge.values import MARKER, Comment, ItemDetails, ItemState, Permission
from coding_agent_core.reporting.command_execution import (
    CommandMetrics,
    ExecutionResult,
    LastTask,
    Target,
    execute,
)
from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.model import CommandName, Item, Phase, Submission, TaskRequest, Withdrawal
from coding_agent_core.task.runners import RunnerName
from prometheus_client import CollectorRegistry

from tests.unit.core_task.test_commands import command

RUN, CANCEL, RETRY = CommandName.RUN, CommandName.CANCEL, CommandName.RETRY
WRITTEN = datetime(2026, 11, 25, 11, 59, tzinfo=UTC)


@dataclass
class World:
    """A forge with one comment, and a queue, as far as commands ask them.

    Attributes:
        fails: error of the forge's method of that name, once.
        comment: what the comment has in place of what the command says.
    """

    open: bool = True
    phase: Phase | None = Phase.FAILED
    runner: RunnerName | None = None
    reacted: bool = False
    accepted: Collection[CommandName] = tuple(CommandName)
    comment: dict[str, Any] = field(default_factory=dict)
    said: Comment | None = None
    fails: dict[str, Exception] = field(default_factory=dict)
    asked: list[TaskRequest] = field(default_factory=list)
    withdrawn: list[Withdrawal] = field(default_factory=list)
    duplicate: str | None = None
    labeled_at: datetime | None = None
    updated_at: datetime | None = None

    def _meet(self, name: str) -> None:
        if name in self.fails:
            raise self.fails.pop(name)

    async def whoami(self) -> str:
        self._meet("whoami")
        return "Coding-Agent-Bot"

    async def permission(self, item: Item, user: str) -> Permission:
        self._meet("permission")
        return Permission.TRIAGE if user == "reader" else Permission.WRITE

    async def read_comment(self, item: Item, comment: str) -> Comment:
        self._meet("read_comment")
        assert self.said is not None
        assert comment == self.said.id
        return self.said

    async def has_reacted(self, item: Item, comment: str) -> bool:
        self._meet("has_reacted")
        return self.reacted

    async def react(self, item: Item, comment: str) -> None:
        self._meet("react")
        self.reacted = True

    async def read(self, item: Item) -> ItemDetails:
        self._meet("read")
        return ItemDetails(item, "", "", "", "", frozenset(), self.open, "main")

    async def read_state(self, item: Item) -> ItemState:
        self._meet("read_state")
        return ItemState(frozenset(), self.open, self.updated_at)

    async def submit(self, request: TaskRequest) -> Submission:
        self._meet("submit")
        self.asked.append(request)
        return Submission("task", self.duplicate)

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        self._meet("withdraw")
        self.withdrawn.append(withdrawal)
        return Cancel("task") if self.phase is Phase.RUNNING else Keep("the item's task has ended")

    async def give(
        self, name: CommandName, user: str = "alice", at: datetime | None = None, **more: object
    ) -> ExecutionResult:
        async def last() -> LastTask:
            return LastTask(self.phase, self.runner)

        given = command(name, at, user=user)
        comment: dict[str, Any] = {
            "id": given.comment,
            "author": user,
            "body": f"/{name}\nplease",
            "created_at": WRITTEN,
        }
        self.said = Comment(**comment | self.comment)
        return await execute(given, Target(self, self, last, self.accepted), **more)  # type: ignore[arg-type]

    @property
    def untouched(self) -> bool:
        return not (self.asked or self.withdrawn or self.reacted)


@pytest.mark.parametrize("name", [RUN, RETRY])
async def test_the_new_run_has_the_coding_agent_of_the_last_one(name: CommandName) -> None:
    world = World(runner=RunnerName.CODEX)
    await world.give(name)
    assert [request.runner for request in world.asked] == [RunnerName.CODEX]


@pytest.mark.parametrize("name", [RUN, CANCEL])
@pytest.mark.parametrize("user", ["reader", "CODING-agent-bot"])
async def test_who_may_not_command_gets_nothing_at_all(name: CommandName, user: str) -> None:
    world = World()
    assert await world.give(name, user) is ExecutionResult.REFUSED
    assert world.untouched


@pytest.mark.parametrize("name", [RUN, CANCEL])
@pytest.mark.parametrize(
    "world",
    [
        World(comment={"author": "bob"}),
        World(comment={"body": "Please do."}),
        World(comment={"body": "/retry"}),
        World(comment={"body": "> /run"}),
        World(comment={"body": f"/run\n{MARKER}"}),
        World(comment={"updated_at": WRITTEN + timedelta(hours=1)}),
        World(accepted=()),
        World(accepted=(RETRY,)),
    ],
    ids=["author", "text", "another", "quoted", "ours", "edited", "disabled", "not allowed"],
)
async def test_what_the_comment_does_not_say_is_not_done(world: World, name: CommandName) -> None:
    assert await world.give(name) is ExecutionResult.REFUSED
    assert world.untouched


async def test_the_author_of_the_comment_may_be_spelled_otherwise() -> None:
    assert await World(comment={"author": "Alice"}).give(RUN) is ExecutionResult.DONE


async def test_a_command_approves_the_item_as_it_was_when_the_comment_was_written() -> None:
    world = World(comment={"created_at": WRITTEN.replace(microsecond=123_000)}, phase=Phase.RUNNING)
    for name in (RUN, CANCEL):
        await world.give(name, at=WRITTEN + timedelta(days=9))
        world.reacted = False
    assert [request.trigger.labeled_at for request in world.asked] == [WRITTEN]
    assert [withdrawal.at for withdrawal in world.withdrawn] == [WRITTEN]


@pytest.mark.parametrize(
    ("name", "phase", "result", "asked", "withdrawn"),
    [
        (RUN, None, ExecutionResult.DONE, 1, 0),
        (RETRY, Phase.FAILED, ExecutionResult.DONE, 1, 0),
        (RETRY, Phase.SUCCEEDED, ExecutionResult.NOTHING, 0, 0),
        (CANCEL, Phase.RUNNING, ExecutionResult.DONE, 0, 1),
        (CANCEL, Phase.FAILED, ExecutionResult.NOTHING, 0, 1),
    ],
)
async def test_who_may_sees_by_a_reaction_that_it_was_done(
    name: CommandName, phase: Phase | None, result: ExecutionResult, asked: int, withdrawn: int
) -> None:
    world = World(phase=phase)
    registry = CollectorRegistry()
    assert await world.give(name, metrics=CommandMetrics(registry)) is result
    assert (len(world.asked), len(world.withdrawn)) == (asked, withdrawn)
    assert world.reacted
    labels = {"platform": "github", "command": name, "result": result}
    assert registry.get_sample_value("coding_agent_commands_total", labels) == 1


async def test_what_bears_our_reaction_is_not_done_again() -> None:
    world = World()
    assert await world.give(RUN) is ExecutionResult.DONE
    assert await world.give(RUN) is ExecutionResult.NOTHING
    assert len(world.asked) == 1


@pytest.mark.parametrize(
    "world",
    [
        World(open=False),
        World(fails={"read_comment": ForgeNotFoundError("")}),
        World(fails={"has_reacted": ForgeNotFoundError("")}),
    ],
)
async def test_nothing_is_started_on_a_closed_item_or_by_a_comment_that_was_deleted(world: World) -> None:
    assert await world.give(RUN) is ExecutionResult.NOTHING
    assert not world.asked


AWAY = ForgeUnavailableError("away")


@pytest.mark.parametrize(
    "where", ["whoami", "permission", "read_comment", "has_reacted", "read", "submit", "react"]
)
async def test_whatever_is_away_the_command_is_repeated_until_it_is_done(where: str) -> None:
    world = World(fails={where: QueueUnavailableError("away") if where == "submit" else AWAY})
    with pytest.raises((ForgeUnavailableError, QueueUnavailableError)):
        await world.give(RUN)
    assert not world.reacted
    assert await world.give(RUN) is ExecutionResult.DONE
    # The second request bears the same id, by which admission knows it.
    assert len({request.trigger.delivery_id for request in world.asked}) == 1
    assert world.reacted


@pytest.mark.parametrize(
    ("where", "result"), [("permission", ExecutionResult.FAILED), ("react", ExecutionResult.DONE)]
)
async def test_a_forge_that_would_refuse_for_ever_ends_it(where: str, result: ExecutionResult) -> None:
    world = World(fails={where: ForgeRefusedError("403")})
    assert await world.give(RUN) is result
    assert len(world.asked) == (result is ExecutionResult.DONE)


async def test_what_admission_calls_a_duplicate_is_nothing_to_do() -> None:
    assert await World(duplicate="the item's task has not ended").give(RUN) is ExecutionResult.NOTHING
