"""Many items are labeled, unlabeled, labeled again and closed within seconds, in every mode, without a fault.

Webhooks are up to three seconds late and out of order. The verdict comes from the forge's event log, from the
store of tasks, and from what the items show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.protocol import MARKER
from coding_agent_core.reporting import read_state
from coding_agent_forge import ForgeServer

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.system import REPOSITORY, sample_repository
from tests.integration.label_races.judge import BOT, PROCESSING, Shown, is_wanted, problems
from tests.integration.label_races.modes import Mode, RaceItem, start_kubernetes, start_queues
from tests.integration.label_races.stories import Act, Step, Story, stories

SEED = 20
SETTLE_SECONDS = 120.0
"""Seconds after the last act within which all is as it should be, on a machine that does other things too."""
QUIET_SECONDS = 3.0
"""Seconds in which nothing more happens to items that are as they should be."""
LATE: dict[str, Any] = {"seed": SEED, "late_seconds": (0, 3), "unlabeled_lists_label": True}


@pytest.fixture(scope="session")
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    """The control plane with the AgentTask resource."""
    install(control_plane)
    return control_plane


Start = Callable[[str, Sequence[ForgeServer]], Mode]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start the system in a mode, over these forges."""
    with ExitStack() as stack:

        def begin(mode: str, forges: Sequence[ForgeServer]) -> Mode:
            if mode == "kubernetes":
                plane, namespace = request.getfixturevalue("plane"), request.getfixturevalue("namespace")
                return start_kubernetes(stack, forges, tmp_path, plane, namespace)
            broker = None
            if mode == "rabbitmq":
                broker = request.getfixturevalue("rabbitmq"), request.getfixturevalue("rabbitmq_queue")
            return start_queues(stack, forges, tmp_path, broker)

        yield begin


@pytest.fixture
def flavour() -> str:
    """The forge, unless a test names it."""
    return "github"


@pytest.fixture
def forge(flavour: str, tmp_path: Path) -> Iterator[ForgeServer]:
    """A forge of the flavour that the test is given."""
    with ForgeServer(flavour, sample_repository(), tmp_path / "repositories") as forge:
        yield forge


def race(mode: Mode, forges: Sequence[ForgeServer], count: int, deliveries: dict[str, Any]) -> None:
    """Play the stories of so many items, and judge every item when all has settled."""
    told = dict(zip(_items(forges, count), stories(SEED, count), strict=True))
    for forge in forges:
        forge.set_deliveries(**deliveries)
    if hasattr(mode, "know"):
        mode.know(list(told))
    for item, story in told.items():
        if story.free:
            mode.let_end(item)
    first = {item: story.rounds[0] for item, story in told.items()}
    _play(mode, told, first)
    _settle(mode, told, dict.fromkeys(told, 1))
    second = {item: story.rounds[1] for item, story in told.items() if len(story.rounds) > 1}
    for item in second:
        if not told[item].free:
            mode.hold(item)
    _play(mode, told, second)
    _settle(mode, told, {item: len(story.rounds) for item, story in told.items()})


def _items(forges: Sequence[ForgeServer], count: int) -> list[RaceItem]:
    items = [RaceItem(forges[index % len(forges)], index) for index in range(count)]
    for item in items:
        item.number = item.forge.open_issue(REPOSITORY, f"Race item {item.name}", "Please do it.")
    return items


def _play(mode: Mode, told: dict[RaceItem, Story], rounds: dict[RaceItem, tuple[Step, ...]]) -> None:
    """Do every act at its time. A held item's work may end once all of its round's events are delivered."""
    steps = sorted(
        ((step, item) for item, steps in rounds.items() for step in steps), key=lambda entry: entry[0].at
    )
    began = time.monotonic()
    for step, item in steps:
        time.sleep(max(0.0, began + step.at - time.monotonic()))
        _act(item, step.act)
    for item in rounds:
        item.forge.wait_for(item.forge.sandbox.deliveries.all_ended)
        if not told[item].free and is_wanted(item.events()):
            mode.let_end(item)


def _act(item: RaceItem, act: Act) -> None:
    match act:
        case Act.LABEL:
            item.forge.add_label(REPOSITORY, item.number, BOT)
        case Act.UNLABEL:
            store, repository = item.forge.sandbox.store, item.forge.repository(REPOSITORY)
            found, alice = item.forge.item(REPOSITORY, item.number), item.forge.user()
            item.forge.run(lambda: store.update(repository, found, alice, remove=[BOT, PROCESSING]))
        case Act.CLOSE:
            item.forge.close(REPOSITORY, item.number)


def _settle(mode: Mode, told: dict[RaceItem, Story], played: dict[RaceItem, int]) -> None:
    """Wait until every item is as it should be, and nothing more happens."""
    deadline = time.monotonic() + SETTLE_SECONDS
    quiet_since, seen = time.monotonic(), -1
    while True:
        wrong = _wrong(mode, told, played)
        happened = sum(forge.events()[-1].id for forge in {item.forge for item in told})
        now = time.monotonic()
        if wrong or happened != seen:
            quiet_since, seen = now, happened
        elif now - quiet_since >= QUIET_SECONDS:
            return
        if now > deadline:
            text = "\n".join(_report(item, told[item], lines) for item, lines in wrong.items())
            print(mode.logs())
            pytest.fail(f"{len(wrong)} of {len(told)} items are wrong:\n{text}")
        time.sleep(0.3)


def _wrong(mode: Mode, told: dict[RaceItem, Story], played: dict[RaceItem, int]) -> dict[RaceItem, list[str]]:
    # What the items show is read after the runs: a change between the two is looked at again.
    runs = mode.runs(list(told))
    wrong: dict[RaceItem, list[str]] = {}
    for item, story in told.items():
        wanted = sum(steps[-1].act is Act.LABEL for steps in story.rounds[: played[item]])
        lines = problems(item.events(), runs[item], _shown(item), free=story.free, rounds_wanted=wanted)
        if lines:
            wrong[item] = [*lines, *(f"{run.name}: {run.phase}, {run.worked_until}" for run in runs[item])]
    return wrong


def _shown(item: RaceItem) -> Shown:
    found = item.forge.item(REPOSITORY, item.number)

    def look() -> Shown:
        ours = [comment.body for comment in found.comments if MARKER in comment.body]
        labels = frozenset(label.name for label in found.labels)
        return Shown(found.open, labels, read_state(ours[0]) if ours else None, len(ours))

    return item.forge.run(look)


def _report(item: RaceItem, story: Story, lines: Sequence[str]) -> str:
    history = [
        f"    {event.at:%H:%M:%S.%f} {event.actor} {event.event} {event.label or event.branch or ''}"
        + (f" {state.phase} r{state.run}" if (state := read_state(event.body or "")) else "")
        for event in item.events()
    ]
    return "\n".join([f"{item.name} #{item.number} ({story})", *(f"  {line}" for line in lines), *history])


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
@pytest.mark.parametrize("mode", ["kubernetes", "rabbitmq", "memory"])
@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.long)])
def test_every_label_that_stays_has_its_run_and_no_other_label_has_one(
    forge: ForgeServer, start: Start, mode: str, count: int
) -> None:
    race(start(mode, [forge]), [forge], count, LATE)
