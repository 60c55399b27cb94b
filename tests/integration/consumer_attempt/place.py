"""An attempt as its pod has it, without a cluster: a forge, a model, and a workspace program beside it."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.attempt.agent_work import MakeAgent
from coding_agent_consumer.modes import build_attempt
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import AttemptInput, EarlierAttempts, Outcome
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_forges.connect import connect_forge
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, BOT_TOKEN, MODEL_KEY, REPOSITORY, System, over


class WorkspaceProcess:
    """The sidecar's program, started again like a container when asked."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "workspace.sock"
        self._folder = folder
        self.root = folder
        self._process: subprocess.Popen[bytes] | None = None

    def fresh(self) -> None:
        """As in a new pod."""
        self.end()
        self.root = Path(tempfile.mkdtemp(prefix="workspace-", dir=self._folder))
        self._start()

    def _start(self) -> None:
        arguments = ["--socket", str(self.socket), "--root", str(self.root), "--isolation", "none"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coding_agent_consumer.workspace", *arguments, "--group", "--inherit-env"],
            stdout=subprocess.DEVNULL,
        )

    def restart_when_ended(self) -> None:
        """What the kubelet does: the tree that is there is kept."""
        until("the workspace ended", lambda: self._process is not None and self._process.poll() is not None)
        self._start()

    def end(self) -> None:
        """End it as a pod's end does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)


@dataclass
class AttemptPlace:
    """Runs attempts at the sample's issue."""

    system: System
    workspace: WorkspaceProcess
    folder: Path

    @property
    def platform(self) -> Platform:
        """Of the forge."""
        return Platform(self.system.flavour)

    @property
    def item(self) -> Item:
        """Issue 1 of the sample."""
        gitlab = self.platform is Platform.GITLAB
        return Item(
            platform=self.platform,
            host=self.system.forge.base_url.removeprefix("http://"),
            repository=REPOSITORY,
            kind=ItemKind.ISSUE,
            number=1,
            project_id=self.system.forge.repository(REPOSITORY).id if gitlab else None,
        )

    def given(
        self,
        *,
        attempt: int = 1,
        run: int = 1,
        uuid: str = "",
        timeout: int = 150,
        user: str = "alice",
        item: Mapping[str, Any] | None = None,
        **earlier: Any,
    ) -> AttemptInput:
        """What the operator would tell the attempt; `item` has what differs from issue 1."""
        request = TaskRequest(
            item=self.item.model_copy(update=item or {}),
            user=user,
            trigger=Trigger(origin=Origin.WEBHOOK, received_at=datetime.now(UTC)),
        )
        self._label(request)
        return AttemptInput(
            task=QueuedTask(request=request, uuid=uuid or f"uuid-{run}", run=run, attempt=attempt),
            max_attempts=3,
            timeout_seconds=timeout,
            earlier=EarlierAttempts(**earlier),
        )

    def given_change(self, number: int, **differs: Any) -> AttemptInput:
        """The task of a pull or merge request."""
        return self.given(item={"kind": ItemKind.CHANGE, "number": number, **differs})

    def _label(self, request: TaskRequest) -> None:
        """The person applies the label, unless somebody has."""
        if request.trigger.round is not None:
            return  # nobody asks for a round
        item = request.item
        kind = Kind.ISSUE if item.kind is ItemKind.ISSUE else Kind.CHANGE
        forge = self.system.forge
        try:
            events = forge.item(item.repository, item.number, kind).events
        except KeyError:
            return  # a test of an item that is not there
        if not any(event.label is not None and event.label.name == BOT for event in events):
            forge.add_label(item.repository, item.number, BOT, kind=kind, by=request.user)

    def settings(self, **sections: Any) -> Settings:
        """As in the pod's configuration."""
        base: dict[str, Any] = {
            self.system.flavour: {"api_url": self.system.forge.api_url, "personal_access_token": BOT_TOKEN},
            "llm": {
                "openai": {"base_url": self.system.model.base_url, "api_key": MODEL_KEY, "model": "scripted"},
                "max_retries": 0,
            },
            "context_storage": {"base_dir": str(self.folder / "transcripts")},
            "consumer": {"workspace": {"socket": str(self.workspace.socket)}},
        }
        return Settings.model_validate(over(base, sections))

    async def run(
        self,
        given: AttemptInput,
        *,
        stop: asyncio.Event | None = None,
        grace: float = 20,
        make_agent: MakeAgent = ModelAgent,
        record: Callable[[Outcome], None] | None = None,
        lost: asyncio.Event | None = None,
        patience: float | None = None,
        clock: Clock = Clock(),  # noqa: B008 - immutable
        **sections: Any,
    ) -> Outcome:
        """Run an attempt in this process, with a workspace of its own."""
        self.workspace.fresh()
        self._label(given.task.request)
        settings = self.settings(**sections)
        only = given.task.request.item.repository
        forge = connect_forge(settings, self.platform, only=only, clock=clock)
        try:
            stop = stop or asyncio.Event()
            attempt = build_attempt(
                settings, given, forge, stop, grace=grace, make_agent=make_agent, record=record
            )
            attempt.lost = lost or attempt.lost
            attempt.patience = attempt.patience if patience is None else patience
            return await attempt.run()
        finally:
            await forge.aclose()

    async def asked(self, requests: int) -> None:
        """Wait until the model was asked so often."""
        await asyncio.to_thread(
            until, f"{requests} requests to the model", lambda: len(self.system.model.requests) >= requests
        )

    def branches(self) -> set[str]:
        """On the forge."""
        return set(self.system.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split())

    def open_changes(self) -> Sequence[Any]:
        """Changes of the repository that are open."""
        return [change for change in self.system.changes() if change.open]
