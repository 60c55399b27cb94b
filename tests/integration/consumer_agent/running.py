"""How these tests run the agent: over real HTTP, with waits that are noted instead of waited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.agent_interface import Brief, Image, Step
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.transcripts.transcript import scrub_for
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome

from tests.fixtures.workspace import FolderWorkspace


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


@dataclass
class Running:
    """One attempt and what was seen of it."""

    root: Path
    workspace: FolderWorkspace = field(init=False)
    waits: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    after_first_tool: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        (self.root / "tree").mkdir(exist_ok=True)
        self.workspace = FolderWorkspace(self.root / "tree")

    @property
    def transcript(self) -> Path:
        return self.root / "contexts" / "attempt-1.jsonl"

    async def work(
        self,
        settings: Settings,
        prompt: str = "Please fix it.",
        timeout: float = 150,
        gateway: Gateway | None = None,
        images: tuple[Image, ...] = (),
    ) -> Outcome:
        async def on_step(step: Step) -> None:
            self.steps.append(step)
            if step.kind == "tool" and self.after_first_tool is not None:
                after, self.after_first_tool = self.after_first_tool, None
                await asyncio.to_thread(after)

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        agent = ModelAgent(settings, gateway, clock=Clock(sleep=sleep, chance=lambda: 0.0))
        brief = Brief(
            instructions="You fix bugs.",
            prompt=prompt,
            scrub=scrub_for(settings, {}),
            images=images,
            transcript=self.transcript,
        )
        return await agent.work(brief, self.workspace, stop=self.stop, timeout=timeout, on_step=on_step)
