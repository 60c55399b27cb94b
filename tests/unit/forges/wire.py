"""A forge that answers from a list, and a clock that nobody waits for."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TOKEN = "s3cret-token-value"
SETTINGS: Any = Settings.model_validate({platform: {"personal_access_token": TOKEN} for platform in Platform})
ITEMS = {
    Platform.GITHUB: Item(
        platform=Platform.GITHUB, host="github.com", repository="acme/pricing", kind=ItemKind.ISSUE, number=7
    ),
    Platform.GITLAB: Item(
        platform=Platform.GITLAB,
        host="gitlab.com",
        repository="acme/pricing",
        kind=ItemKind.ISSUE,
        number=7,
        project_id=3,
    ),
    Platform.GITEA: Item(
        platform=Platform.GITEA, host="gitea.com", repository="acme/pricing", kind=ItemKind.ISSUE, number=7
    ),
}
Answer = httpx2.Response | Exception


@dataclass
class Wire:
    """Answers requests in order; the last answer repeats."""

    answers: Sequence[Answer | Callable[[httpx2.Request], httpx2.Response]]
    requests: list[httpx2.Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    async def handle(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.elapsed += seconds

    def forge(self, platform: Platform, settings: Settings = SETTINGS) -> Forge:
        clock = Clock(now=lambda: NOW, monotonic=lambda: self.elapsed, sleep=self.sleep, chance=lambda: 0.999)
        return connect_forge(settings, platform, clock=clock, transport=httpx2.MockTransport(self.handle))

    @property
    def sent(self) -> list[tuple[str, str]]:
        """Method and path, as on the wire, of each request."""
        return [
            (request.method, re.sub(r"^/api/v\d|\?.*", "", request.url.raw_path.decode()))
            for request in self.requests
        ]


def answer(status: int = 200, body: Any = None, **headers: str) -> httpx2.Response:
    """An answer with a JSON body; underscores in header names become dashes."""
    return httpx2.Response(
        status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


USER = answer(200, {"id": 1, "login": "bot", "username": "bot"})
