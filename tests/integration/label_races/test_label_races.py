"""Many items are labeled, unlabeled, labeled again and closed within seconds, in every mode, without a fault.

Webhooks are up to three seconds late and out of order. The verdict comes from the forge's event log, from the
store of tasks, and from what the items show.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import read_state
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.deliveries import PENDING
from coding_agent_testbed.until import until

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.system import REPOSITORY, sample_repository
from tests.integration.label_races.judge import BOT, DONE, PROCESSING, Shown, is_wanted, problems
from tests.integration.label_races.modes import GRACE, Mode, RaceItem, start_kubernetes, start_queues
from tests.integration.label_races.stories import Act, Story, stories

MODES = ("kubernetes", "rabbitmq", "one machine")
SEED = 20
SETTLE_SECONDS = 480.0
"""Seconds after the last act within which all is as it should be, on a machine that does other things too."""
TEST_SECONDS = 2 * SETTLE_SECONDS + 240.0
"""Seconds for a test of two rounds, so that what is wrong is told before the test is ended."""
QUIET_SECONDS = 3.0
"""Seconds in which nothing more happens to items that are as they should be."""
LATE: dict[str, Any] = {"seed": SEED, "late_seconds": (0, 3), "unlabeled_lists_label": True}


@pytest.fixture(scope="session")
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    """The control plane with the AgentTask resource."""
    install(control_plane)
    return control_plane


Start = Callable[..., Mode]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start the system in a mode, over these forges; consumers work on so many tasks at a time."""
    with ExitStack() as stack:

        def begin(mode: str, forges: Sequence[ForgeServer], *, concurrency: int = 6) -> Mode:
            if mode == "kubernetes":
                plane, namespace = request.getfixturevalue("plane"), request.getfixturevalue("namespace")
                return start_kubernetes(stack, forges, tmp_path, plane, namespace)
            broker = None
            if mode == "rabbitmq":
                broker = request.getfixturevalue("rabbitmq"), request.getfixturevalue("rabbitmq_queue")
            return start_queues(stack, forges, tmp_path, broker, concurrency=concurrency)

        yield begin


@pytest.fixture
def open_forge(tmp_path: Path) -> Iterator[Callable[..., ForgeServer]]:
    """Start a forge, whose clock may be ahead of this machine's by so many seconds, or behind."""
    with ExitStack() as stack:

        def begin(flavour: str, clock_ahead: float = 0.0) -> ForgeServer:
            folder = tmp_path / f"{flavour}-repositories"
            server = ForgeServer(flavour, sample_repository(), folder, clock_ahead=clock_ahead)
            return stack.enter_context(server)

        yield begin


OpenForge = Callable[..., ForgeServer]


class Race:
    """Items with their stories, what was played of them, and how many rounds ended with the label on.

    Args:
        count: the number of items, spread over the forges.
    """

    def __init__(
        self, start: Start, mode: str, forges: Sequence[ForgeServer], count: int, **deliveries: Any
    ) -> None:
        self.mode = start(mode, forges)
        self.told = dict(zip(_items(forges, count), stories(SEED, count), strict=True))
        self._played = dict.fromkeys(self.told, 0)
        self._wanted = dict.fromkeys(self.told, 0)
        for forge in forges:
            forge.set_deliveries(**LATE | deliveries)
        self.mode.know(list(self.told))
        for item, story in self.told.items():
            if story.free:
                self.mode.let_end(item)

    def run(self) -> None:
        """Every round of every story."""
        for _ in range(max(len(story.rounds) for story in self.told.values())):
            self.play()
            self.settle()

    def play(self) -> None:
        """Do every act of the next round at its time."""
        rounds = {
            item: story.rounds[self._played[item]]
            for item, story in self.told.items()
            if self._played[item] < len(story.rounds)
        }
        for item in rounds:
            if not self.told[item].free:
                self.mode.hold(item)
            self._played[item] += 1
        steps = sorted(
            ((step, item) for item, steps in rounds.items() for step in steps), key=lambda entry: entry[0].at
        )
        began = time.monotonic()
        for step, item in steps:
            time.sleep(max(0.0, began + step.at - time.monotonic()))  # not a wait
            _act(item, step.act)
        # A held item's work may end when all of the round's events are delivered.
        forges = {item.forge for item in rounds}
        until("every event is delivered", lambda: all(map(_all_delivered, forges)), timeout=SETTLE_SECONDS)
        for item in rounds:
            # Not what the story says: a removal does nothing between the two requests that swap the labels.
            if is_wanted(item.events()):
                self._wanted[item] += 1
                if not self.told[item].free:
                    self.mode.let_end(item)

    def settle(self, *forges: ForgeServer) -> None:
        """Wait until every item is as it should be, and nothing more happens; with forges: theirs alone."""
        items = [item for item in self.told if not forges or item.forge in forges]
        quiet_since, seen = time.monotonic(), -1
        wrong: dict[RaceItem, list[str]] = {}

        def is_settled() -> bool:
            nonlocal quiet_since, seen, wrong
            wrong = self._wrong(items)
            happened = sum(forge.events()[-1].id for forge in {item.forge for item in items})
            now = time.monotonic()
            if wrong or happened != seen:
                quiet_since, seen = now, happened
            return now - quiet_since >= QUIET_SECONDS

        def report() -> str:
            print(self.mode.logs())
            text = "\n".join(_report(item, self.told[item], lines) for item, lines in wrong.items())
            return f"{len(wrong)} of {len(items)} items are wrong:\n{text}"

        until(report, is_settled, timeout=SETTLE_SECONDS, interval=0.3)

    def _wrong(self, items: Sequence[RaceItem]) -> dict[RaceItem, list[str]]:
        # What the items show is read after the runs: a change between the two is looked at again.
        runs = self.mode.runs(items)
        wrong: dict[RaceItem, list[str]] = {}
        for item in items:
            story = self.told[item]
            events, shown = item.events(), _shown(item)
            wanted = self._wanted[item]
            lines = problems(events, item.reads, runs[item], shown, free=story.free, rounds_wanted=wanted)
            if lines:
                seen = [f"{run.name}: {run.phase}, worked until {run.worked_until}" for run in runs[item]]
                wrong[item] = [*lines, *seen]
        return wrong


def _all_delivered(forge: ForgeServer) -> bool:
    """Whether the receiver has every event. A person asks the forge to send again what has failed."""
    deliveries = forge.sandbox.deliveries

    def look() -> bool:
        answered = {one.guid for one in deliveries.log if one.status == "OK"}
        failed = {one.guid: one for one in deliveries.log if one.status != PENDING}
        for guid in failed.keys() - answered - {one.guid for one in deliveries.log if one.status == PENDING}:
            deliveries.resend(failed[guid])
        return deliveries.all_ended()

    return forge.run(look)


def _items(forges: Sequence[ForgeServer], count: int) -> list[RaceItem]:
    items = [RaceItem(forges[index % len(forges)], index) for index in range(count)]
    for item in items:
        item.number = item.forge.open_issue(REPOSITORY, f"Race item {item.name}", "Please do it.")
    return items


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


@pytest.mark.long
@pytest.mark.timeout(TEST_SECONDS)
@pytest.mark.parametrize(
    ("count", "mode", "flavour"),
    [(60, mode, flavour) for mode in MODES for flavour in ("github", "gitlab")],
    ids=str,
)
def test_every_label_that_stays_has_its_run_and_no_other_label_has_one(
    open_forge: OpenForge, start: Start, count: int, mode: str, flavour: str
) -> None:
    Race(start, mode, [open_forge(flavour)], count).run()


@pytest.mark.long
@pytest.mark.timeout(TEST_SECONDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_forge_that_is_down_keeps_nobody_waiting_on_the_other(
    open_forge: OpenForge, start: Start, mode: str
) -> None:
    down, works = open_forge("github"), open_forge("gitlab")
    system = start(mode, [down, works], concurrency=2)
    items = _items([down], 4) + _items([works], 1)
    system.know(items)
    for item in items:
        system.let_end(item)
    outage = down.fault(id="outage", path="/api/", status=503, times=None)
    *held_up, other = items
    # The tasks of the forge that is down come first.
    for item in held_up:
        _act(item, Act.LABEL)
        until("the event is delivered", partial(_all_delivered, item.forge))
    until("the system has tried", lambda: outage.hits)
    _act(other, Act.LABEL)
    _wait_for_done(system, other)
    outage.end()
    for item in held_up:
        _wait_for_done(system, item)
        state = _shown(item).state
        assert state is not None
        assert state.attempt == 1, "an outage of the forge is not a failed attempt"


@pytest.mark.long
@pytest.mark.timeout(TEST_SECONDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_clock_that_is_set_back_while_a_run_works_asks_for_no_other_run(
    open_forge: OpenForge, start: Start, mode: str
) -> None:
    forge = open_forge("github")
    system = start(mode, [forge])
    [item] = _items([forge], 1)
    system.know([item])
    _act(item, Act.LABEL)
    until("the run has the item", lambda: _shown(item).labels == {PROCESSING}, timeout=SETTLE_SECONDS)
    forge.set_clock(-90.0)
    system.let_end(item)
    _wait_for_done(system, item)
    _wait_for_quiet(forge, GRACE + QUIET_SECONDS)
    assert len(system.runs([item])[item]) == 1, system.logs()


def _wait_for_quiet(forge: ForgeServer, seconds: float) -> None:
    """Wait until nothing happens on the forge for so long."""
    newest, since = forge.events()[-1].id, time.monotonic()

    def is_quiet() -> bool:
        nonlocal newest, since
        if (seen := forge.events()[-1].id) != newest:
            newest, since = seen, time.monotonic()
        return time.monotonic() - since >= seconds

    until(f"nothing happens for {seconds} s", is_quiet, timeout=SETTLE_SECONDS)


def _wait_for_done(system: Mode, item: RaceItem) -> None:
    until(
        lambda: f"{item.name} is done\n{system.logs()}",
        lambda: DONE in _shown(item).labels,
        timeout=SETTLE_SECONDS,
    )


@pytest.mark.long
@pytest.mark.timeout(TEST_SECONDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("flavour", "clock_ahead", "deliveries"),
    [
        ("github", 120.0, {"doubled": 0.5, "other_ids": 0.5, "reordered": 0.3}),
        ("gitlab", -120.0, {"dropped": 0.3}),
    ],
    ids=str,
)
def test_it_holds_with_another_clock_and_whatever_happens_to_the_deliveries(
    open_forge: OpenForge,
    start: Start,
    mode: str,
    flavour: str,
    clock_ahead: float,
    deliveries: dict[str, Any],
) -> None:
    Race(start, mode, [open_forge(flavour, clock_ahead)], 12, **deliveries).run()
