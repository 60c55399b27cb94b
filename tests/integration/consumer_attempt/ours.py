"""A change that our account opened, and the rounds on it, as their pods run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import State
from coding_agent_core.rounds.decide import open_work
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.model import Item, Origin, Phase, RoundTrigger, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.round_cause import RoundCause, Work
from coding_agent_core.task.round_record import RoundEnd, RoundRecord
from coding_agent_core.task.round_report import recorded, trigger_of
from coding_agent_forges.connect import connect_forge
from coding_agent_testbed.forge.model import Kind

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.scripts import script

US = "coding-agent-bot"
BRANCH = "coding-agent/issue-1"
FILE = "notes.md"
ROUNDS = {"enabled": True, "review_quiet": 0, "checks_quiet": 0}
both = pytest.mark.parametrize("flavour", ["github", "gitlab"])


@dataclass
class Ours:
    """A change that our account opened, and the rounds on it."""

    place: AttemptPlace
    number: int
    record: RoundRecord

    @property
    def forge(self) -> Any:
        return self.place.system.forge

    @property
    def item(self) -> Item:
        return self.place.item.model_copy(update={"kind": ItemKind.CHANGE, "number": self.number})

    @property
    def head(self) -> str:
        return self.place.system.git("rev-parse", BRANCH).strip()

    async def snapshot(self) -> ChangeSnapshot:
        forge = connect_forge(self.place.settings(), self.place.platform)
        try:
            return await forge.snapshot(self.item)
        finally:
            await forge.aclose()

    async def work(self) -> Work:
        """What somebody who looks at the change decides."""
        settings = self.place.settings(rounds=ROUNDS)
        policy = settings.rounds.policy(settings.labels(self.place.platform))
        snapshot = await self.snapshot()
        return open_work(
            snapshot, self.record, policy, snapshot.read_at, may_write=lambda login: login == "alice"
        )

    async def look(self) -> RoundCause:
        work = await self.work()
        assert work.due, work
        return work.due[0]

    def given(self, cause: RoundCause) -> AttemptInput:
        """What the operator would tell the round's attempt."""
        kind, trigger = trigger_of(cause, datetime.now(UTC))
        request = TaskRequest(
            item=self.item,
            trigger=Trigger(origin=Origin.POLL, cause=kind, received_at=datetime.now(UTC), round=trigger),
        )
        return AttemptInput(
            task=QueuedTask(request=request, uuid=f"uuid-{cause.name_part}", run=2, attempt=1),
            max_attempts=3,
            timeout_seconds=150,
        )

    async def round(
        self, cause: RoundCause | None = None, *, resolve_threads: bool = False, **options: Any
    ) -> Outcome:
        """Run the round that is due, and record how it ended, as the reporter does."""
        cause = cause or await self.look()
        given = self.given(cause)
        rounds = ROUNDS | {"resolve_threads": resolve_threads}
        outcome = await self.place.run(given, rounds=rounds, **options)
        trigger = given.task.request.trigger.round
        assert isinstance(trigger, RoundTrigger)
        self.record = recorded(self.record, trigger, outcome.round, RoundEnd.FAILED)
        state = State(uuid="uuid", phase=Phase.SUCCEEDED, rounds=self.record)
        comments = self.forge.item(REPOSITORY, self.number, Kind.CHANGE).comments
        ours = [one for one in comments if MARKER in one.body]
        hidden = f"{MARKER}{state.model_dump_json(exclude_none=True)} -->"
        if ours:
            ours[0].body = hidden
        else:
            self.forge.comment(REPOSITORY, self.number, hidden, kind=Kind.CHANGE, by=US)
        return outcome

    def plays(self, *turns: Any) -> None:
        """What the model says in the next round."""
        self.place.system.model.app.state.play.scripts = script(*turns)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self.place.system.model.requests

    def content(self) -> str:
        return self.place.system.file_at(BRANCH, FILE)

    def comments(self) -> list[Any]:
        return self.place.system.comments(self.number, Kind.CHANGE)

    def thread(self, text: str, line: int = 2) -> Any:
        return self.forge.start_thread(REPOSITORY, self.number, text, path=FILE, line=line, by="alice")

    def check(self, name: str, result: str, **more: Any) -> None:
        self.forge.add_check(REPOSITORY, self.head, name, result, **more)

    def push(self, branch: str, files: dict[str, str], by: str = "alice") -> str:
        return str(self.forge.push(REPOSITORY, branch, files, by=by))


OpenOurs = Callable[[str], Ours]
