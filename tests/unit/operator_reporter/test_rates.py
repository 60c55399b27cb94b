"""The shipped limits keep a burst of tasks within what the vendors document, and show it within minutes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.forge.pacing import Kind, Paced
from coding_agent_core.registry import FACTS, Platform
from coding_agent_core.retry import Clock
from coding_agent_core.settings.operator import Reporter
from coding_agent_operator.reporter.reporter_program import rate_for

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASKS = 200
FIRST = (Kind.READ, Kind.READ, Kind.READ, Kind.CREATE)
"""The first comment on an item: look for one, read the item, look again, write."""
LABELS = (Kind.READ, Kind.READ, Kind.READ, Kind.WRITE, Kind.WRITE)
"""The labels of a task whose comment has to wait: look for it, read the item, look again, swap the labels."""
END = (Kind.READ, Kind.WRITE, Kind.WRITE, Kind.WRITE)
"""An end: read the item, edit the comment, swap the labels."""


@dataclass
class Sent:
    """Requests over a clock of its own."""

    platform: Platform
    host: str
    at: float = 0.0
    requests: list[tuple[float, Kind]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = Clock(
            now=lambda: NOW + timedelta(seconds=self.at), monotonic=lambda: self.at, sleep=self._sleep
        )
        rate = rate_for(Reporter(), self.platform, self.host)
        self.pace = Paced(self.host, rate, clock)

    async def _sleep(self, seconds: float) -> None:
        self.at += seconds

    async def send(self, kinds: tuple[Kind, ...]) -> float:
        """Send this for each task; the minutes that it took."""
        began = self.at
        for _ in range(TASKS):
            for kind in kinds:
                await self.pace.turn(kind)
                self.requests.append((self.at, kind))
        return (self.at - began) / 60

    def most(self, seconds: float, cost: dict[Kind, int]) -> int:
        most = total = first = 0
        for at, kind in self.requests:
            total += cost.get(kind, 0)
            while self.requests[first][0] <= at - seconds:
                total -= cost.get(self.requests[first][1], 0)
                first += 1
            most = max(most, total)
        return most


@pytest.mark.parametrize(
    ("platform", "host", "comments", "labels", "ends"),
    [
        (Platform.GITHUB, "github.com", 3.2, 3.3, 4.4),
        (Platform.GITLAB, "gitlab.com", 4.2, 3.3, 2.7),
        (Platform.GITLAB, "gitlab.example.com", 2.7, 3.3, 2.7),
    ],
)
async def test_a_burst_of_200_tasks(
    platform: Platform, host: str, comments: float, labels: float, ends: float
) -> None:
    """The minutes are those of docs/operations/reporter.md."""
    sent = Sent(platform, host)
    assert await sent.send(FIRST) == pytest.approx(comments, abs=0.15)
    assert await sent.send(LABELS) == pytest.approx(labels, abs=0.15)
    assert await sent.send(END) == pytest.approx(ends, abs=0.15)
    facts = FACTS[platform]
    limits = facts.web_limits if host == facts.web_host else facts.limits
    assert sent.most(60, {Kind.CREATE: 1}) <= limits.creates_per_minute
    if platform is Platform.GITHUB:
        assert sent.most(3600, {Kind.CREATE: 1}) <= 500
        assert len(sent.requests) < 5000
        assert sent.most(60, {Kind.READ: 1, Kind.WRITE: 5, Kind.CREATE: 5}) <= 900, "points"


def test_what_is_configured_wins() -> None:
    settings = Reporter(creates_per_minute=7, creates_per_hour=70, writes_per_minute=700)
    rate = rate_for(settings, Platform.GITHUB, "github.com")
    assert (rate.creates_per_minute, rate.creates_per_hour, rate.writes_per_minute) == (7, 70, 700)
