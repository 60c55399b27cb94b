"""An item's events with the forge's own numbers, in the shapes of the forges' answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.item_history import ItemAction, ItemEvent, Position
from coding_agent_core.task.labels import decide, wishes
from coding_agent_forges.rest.item_events import item_events, merged
from coding_agent_forges.rest.responses import HistoryEvent

from tests.unit.forges.wire import ITEMS, Wire, answer

EACH_FORGE = pytest.mark.parametrize("platform", list(Platform))
TRIGGER, PROCESSING = "coding agent", "coding agent processing"
ON, OFF, CLOSED, REOPENED = ItemAction
BY_FORGE = {
    Platform.GITHUB: {ON: "labeled", OFF: "unlabeled", CLOSED: "closed", REOPENED: "reopened"},
    Platform.GITLAB: {ON: "add", OFF: "remove", CLOSED: "closed", REOPENED: "reopened"},
    Platform.GITEA: {ON: "1", OFF: "", CLOSED: "close", REOPENED: "reopen"},
}


@dataclass(frozen=True)
class Happened:
    """Something that happened to an item.

    Attributes:
        label: empty for closing and opening; `None` for a label that was deleted later.
        at: the forge's time within the hour, as `MM:SS` with or without milliseconds.
    """

    id: int
    action: ItemAction
    label: str | None = ""
    user: str | None = "alice"
    at: str = "00:00"

    def entry(self, platform: Platform) -> dict[str, Any]:
        """Return the event as the forge's API shows it."""
        name = BY_FORGE[platform][self.action]
        user = {"id": 2, "login": self.user, "username": self.user} if self.user else None
        label = {"id": 5, "name": self.label} if self.label else None
        seen = {"id": self.id, "created_at": f"2026-11-25T11:{self.at}Z"}
        is_label = self.action in (ON, OFF)
        if platform is Platform.GITHUB:
            more = {"label": label} if is_label else {"commit_id": None}
            return seen | {"event": name, "actor": user} | more
        if platform is Platform.GITLAB:
            return seen | {"user": user} | ({"action": name, "label": label} if is_label else {"state": name})
        kind, body = ("label", name) if is_label else (name, "")
        return seen | {"type": kind, "body": body, "user": user} | ({"label": label} if is_label else {})


@dataclass(frozen=True)
class Merged(Happened):
    """An event with other fields than those of its action."""

    more: dict[str, Any] = field(default_factory=dict)

    def entry(self, platform: Platform) -> dict[str, Any]:
        return super().entry(platform) | self.more


def unrelated(number: int, platform: Platform, at: str = "00:00") -> dict[str, Any]:
    """An entry of the forge's list that is no event of an active label."""
    return Happened(number, ON, "bug", "bob", at).entry(platform)


@dataclass
class History(Wire):
    """A forge with one item, which shows some labels, and with its lists of events.

    Attributes:
        happened: the events, in the order in which the forge lists them; GitLab's two lists are separated.
        others: entries that stand before them in the list.
        shown: the labels on the item.
        size: the number of entries in a page.
        meanwhile: called after each answer with its path; it can change what the forge shows.
    """

    answers: Sequence[Any] = ()
    platform: Platform = Platform.GITHUB
    happened: list[Happened] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    state: str = "open"
    size: int = 100
    meanwhile: Callable[[str], None] = lambda _: None

    async def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        where = request.url.path
        response = self._answer(where.rsplit("/", 1)[1], request)
        self.meanwhile(where)
        return response

    def _answer(self, name: str, request: httpx2.Request) -> httpx2.Response:
        if name == "user":
            return answer(200, {"id": 1, "login": "bot", "username": "bot"})
        if name == "reviews":
            return answer(200, [])
        if name == "7":
            labels = self.shown if self.platform is Platform.GITLAB else [{"name": one} for one in self.shown]
            url = "https://forge.test/7"
            return answer(
                200,
                {
                    "number": 7,
                    "iid": 7,
                    "title": "Round prices",
                    "state": self.state,
                    "labels": labels,
                    "html_url": url,
                    "web_url": url,
                    "updated_at": "2026-11-25T11:59:00Z",
                },
            )
        events = [one.entry(self.platform) for one in self.happened if name != LISTS[one.action in (ON, OFF)]]
        return self._page(self.others + events if name != "resource_state_events" else events, request)

    def _page(self, entries: list[dict[str, Any]], request: httpx2.Request) -> httpx2.Response:
        number = int(request.url.params.get("page", "1"))
        page = entries[(number - 1) * self.size : number * self.size]
        if self.platform is Platform.GITEA:
            return httpx2.Response(200, content=json.dumps(page or None))
        last = max(1, -(-len(entries) // self.size))
        links = [f'<{request.url.copy_set_param("page", number + 1)}>; rel="next"'] * (number < last)
        links += [f'<{request.url.copy_set_param("page", last)}>; rel="last"'] * (number < last)
        return answer(200, page, **({"Link": ", ".join(links)} if links else {}))

    async def read(self, after: Position | None = None) -> Any:
        return await self.forge(self.platform).item_history(ITEMS[self.platform], after)

    @property
    def asked(self) -> list[str]:
        """What was asked for, without the account."""
        names = [path.rsplit("/", 1)[1] for _, path in self.sent]
        return [name for name in names if name != "user"]


LISTS = {True: "resource_state_events", False: "resource_label_events"}
"""The list of GitLab that lacks the events of labels, and the one that lacks the others."""
STORY = [
    Happened(11, ON, "Coding Agent", at="01:00"),
    Happened(12, ON, PROCESSING, "bot", "02:00"),
    Happened(13, OFF, TRIGGER, "bot", "02:01"),
    Happened(14, CLOSED, at="03:00"),
    Happened(15, REOPENED, user=None, at="04:00"),
    Happened(16, OFF, PROCESSING, at="05:00"),
]


def told(events: Sequence[ItemEvent]) -> list[tuple[int, ItemAction, str, str]]:
    return [(event.id, event.action, event.label, event.user) for event in events]


@EACH_FORGE
async def test_events_have_the_forges_numbers_and_our_spelling_of_labels(platform: Platform) -> None:
    wire = History(platform=platform, happened=STORY, others=[unrelated(5, platform)])
    history = await wire.read()
    spelled = TRIGGER if platform is Platform.GITHUB else "Coding Agent"
    assert told(history.events) == [
        *([(11, ON, TRIGGER, "alice")] if spelled == TRIGGER else []),
        (12, ON, PROCESSING, "bot"),
        (13, OFF, TRIGGER, "bot"),
        (14, CLOSED, "", "alice"),
        (15, REOPENED, "", ""),
        (16, OFF, PROCESSING, "alice"),
    ], "only GitHub ignores the case of labels"
    assert (history.complete, history.current, history.own_login) == (True, True, "bot")
    assert (history.present, history.open) == (frozenset(), True)


@EACH_FORGE
async def test_the_item_is_read_before_its_history(platform: Platform) -> None:
    """A label that is applied in between is in the history, so it is not one that was always there."""
    wire = History(platform=platform, shown=[], happened=[])

    def label(path: str) -> None:
        if path.endswith("/7") and not wire.happened:
            wire.happened.append(Happened(11, ON, TRIGGER))

    wire.meanwhile = label
    history = await wire.read()
    assert wire.asked[0] == "7"
    assert told(history.events) == [(11, ON, TRIGGER, "alice")]
    application = wishes(history, None).application
    assert application is not None
    assert application.id == 11, "a label that was given when the item was created would have no number"


@EACH_FORGE
async def test_what_happens_between_two_requests_is_no_label_that_vanished(platform: Platform) -> None:
    """The item is read again if it does not show what its last events say."""
    wire = History(platform=platform, happened=[Happened(11, ON, TRIGGER), Happened(12, OFF, TRIGGER, "bot")])

    def process(path: str) -> None:
        if path.endswith("/7") and not wire.shown:
            wire.happened.append(Happened(13, ON, PROCESSING, "bot"))
            wire.shown.append(PROCESSING)

    wire.meanwhile = process
    history = await wire.read(Position((12,)))
    assert history.present == {PROCESSING}
    assert (history.events[-1].label, history.current) == (PROCESSING, True)
    assert wire.asked.count("7") == 2


@EACH_FORGE
async def test_a_label_that_is_gone_without_an_event_is_reported_as_it_is(platform: Platform) -> None:
    """Somebody deleted the label, and it may have been made again."""
    wire = History(platform=platform, shown=[], happened=[Happened(11, ON, TRIGGER)])
    history = await wire.read()
    assert (history.present, history.current) == (frozenset(), True)
    assert wire.asked.count("7") == 2, "two reads of the same history are enough"


@EACH_FORGE
async def test_a_history_that_changes_with_each_read_is_not_current(platform: Platform) -> None:
    wire = History(platform=platform, shown=[TRIGGER], happened=[])

    def swap(path: str) -> None:
        if path.endswith("/7"):
            number = 11 + len(wire.happened)
            wire.happened.append(Happened(number, OFF if number % 2 else ON, TRIGGER))
            wire.shown = [] if number % 2 else [TRIGGER]

    wire.meanwhile = swap
    history = await wire.read()
    assert not history.current


@EACH_FORGE
async def test_two_events_in_one_second_and_a_clock_that_was_set_back(platform: Platform) -> None:
    """The numbers decide, whatever the times are."""
    wire = History(
        platform=platform,
        shown=[TRIGGER],
        happened=[
            Happened(11, ON, TRIGGER, at="30:00"),
            Happened(12, OFF, TRIGGER, at="30:00"),
            Happened(13, ON, TRIGGER, at="10:00"),
        ],
    )
    if platform is Platform.GITEA:  # it sorts by time
        wire.happened.insert(0, wire.happened.pop())
    history = await wire.read()
    assert [event.id for event in history.events] == [11, 12, 13]
    assert history.position() == Position((13,))
    decision = decide(history, (), Position((12,)))
    assert decision.create is not None
    assert decision.create.id == 13


@EACH_FORGE
async def test_labels_that_were_deleted_are_left_out(platform: Platform) -> None:
    wire = History(
        platform=platform,
        happened=[Happened(11, ON, None), Happened(12, ON, TRIGGER), Happened(13, OFF, TRIGGER)],
    )
    assert [event.id for event in (await wire.read()).events] == [12, 13]


@EACH_FORGE
@pytest.mark.parametrize("before", [0, 98, 99, 100, 197, 198, 199, 200, 201])
async def test_no_event_is_lost_at_the_edge_of_a_page(platform: Platform, before: int) -> None:
    size = 100 if platform is not Platform.GITEA else 50
    others = [unrelated(number, platform) for number in range(1, before + 1)]
    happened = [Happened(1000, ON, TRIGGER), Happened(1001, OFF, TRIGGER), Happened(1002, ON, TRIGGER)]
    for after in (None, Position((1000,)), Position((1001,)), Position((1002,))):
        wire = History(platform=platform, others=others, happened=happened, shown=[TRIGGER], size=size)
        history = await wire.read(after)
        assert history.complete
        new = [event.id for event in history.events if after is None or not after.covers(event)]
        assert new == [one.id for one in happened if after is None or one.id > after.ids[0]]


async def test_github_is_read_from_its_newest_page_back_to_the_position() -> None:
    others = [unrelated(number, Platform.GITHUB) for number in range(1, 941)]
    happened = [Happened(1000 + number, ON if number % 2 else OFF, TRIGGER) for number in range(50)]
    wire = History(others=others, happened=happened, shown=[TRIGGER])
    history = await wire.read(Position((1030,)))
    pages = [request.url.params["page"] for request in wire.requests if "page" in request.url.params]
    assert pages == ["1", "10"], "the first page says which one is the last"
    assert 1030 in [event.id for event in history.events], "the last answered event says what was shown then"
    assert history.complete
    assert wishes(history, Position((1030,))).withdrawn == Position((1032,))


async def test_github_is_read_back_to_the_last_event_of_a_label_although_a_later_one_is_answered() -> None:
    """Whoever compares the item with its history needs that event."""
    others = [unrelated(number, Platform.GITHUB) for number in range(1, 98)]
    happened = [Happened(100, ON, TRIGGER), Happened(101, OFF, TRIGGER, "bot"), Happened(102, CLOSED)]
    wire = History(others=others, happened=[*happened, Happened(103, REOPENED)], size=100)
    history = await wire.read(Position((102,)))
    assert [event.id for event in history.events][-3:] == [101, 102, 103]


async def test_github_is_read_back_to_an_event_of_each_label_that_the_item_shows() -> None:
    """Otherwise the label would look like one whose event the history does not show yet."""
    others = [unrelated(number, Platform.GITHUB) for number in range(1, 98)]
    happened = [Happened(100, ON, TRIGGER), Happened(101, ON, PROCESSING, "bot")]
    happened += [Happened(102, OFF, TRIGGER, "bot"), Happened(103, ON, TRIGGER), Happened(104, OFF, TRIGGER)]
    wire = History(others=others, happened=happened, shown=[PROCESSING])
    history = await wire.read(Position((103,)))
    assert [event.id for event in history.events] == [100, 101, 102, 103, 104]
    assert wishes(history, Position((103,))).withdrawn is None, "the item still has our label"


async def test_a_history_that_is_longer_than_what_is_read_is_not_complete() -> None:
    others = [unrelated(number, Platform.GITHUB) for number in range(1, 202)]
    happened = [Happened(1000, ON, TRIGGER)]
    wire = History(others=others, happened=happened, shown=[TRIGGER], size=2)
    history = await wire.read(Position((3,)))
    assert (history.complete, [event.id for event in history.events]) == (False, [1000])
    assert (await wire.read(Position((1000,)))).complete, "nothing before the position is needed"


@pytest.mark.parametrize("platform", [Platform.GITLAB, Platform.GITEA])
async def test_an_incomplete_history_never_shows_old_events_as_the_newest(platform: Platform) -> None:
    others = [unrelated(number, platform) for number in range(1, 202)]
    wire = History(
        platform=platform,
        happened=[Happened(1000, ON, TRIGGER)],
        others=[Happened(900, OFF, TRIGGER).entry(platform), *others],
        shown=[TRIGGER],
        size=2,
    )
    history = await wire.read()
    assert (history.complete, history.events) == (False, ())
    assert decide(history, (), None).create is None


async def test_gitlabs_two_lists_have_numbers_of_their_own_and_are_merged_by_time() -> None:
    wire = History(
        platform=Platform.GITLAB,
        shown=[TRIGGER],
        happened=[
            Happened(900, ON, TRIGGER, at="01:00.100"),
            Happened(11, CLOSED, at="01:00.200"),
            Happened(12, REOPENED, at="01:00.400"),
            Happened(901, OFF, TRIGGER, at="01:00.300"),
            Happened(902, ON, TRIGGER, at="01:00.500"),
        ],
    )
    history = await wire.read()
    order = [(event.id, event.series) for event in history.events]
    assert order == [(900, 0), (11, 1), (901, 0), (12, 1), (902, 0)]
    assert history.position() == Position((902, 12))
    found = wishes(history, Position((900, 0)))
    assert found.withdrawn == Position((900, 11))
    assert found.application == history.events[-1]


async def test_gitlabs_numbers_decide_within_a_list_whose_clock_was_set_back() -> None:
    wire = History(
        platform=Platform.GITLAB,
        shown=[TRIGGER],
        happened=[
            Happened(901, OFF, TRIGGER, at="10:00.000"),
            Happened(11, CLOSED, at="11:00.000"),
            Happened(12, REOPENED, at="11:00.000"),
            Happened(900, ON, TRIGGER, at="30:00.000"),
            Happened(902, ON, TRIGGER, at="11:00.000"),
        ],
    )
    history = await wire.read()
    assert [event.id for event in history.events if event.series == 0] == [900, 901, 902]
    assert [event.id for event in history.events if event.series == 1] == [11, 12]
    assert history.events[-1].id == 902, "at the same time, the state comes first"


async def test_gitlabs_lists_are_read_twice_unless_the_state_changed() -> None:
    label = Happened(900, ON, TRIGGER, at="01:00.100")
    wire = History(platform=Platform.GITLAB, shown=[TRIGGER], happened=[label])
    await wire.read()
    assert wire.asked == ["7", "resource_label_events", "resource_state_events"]
    wire.happened += [Happened(11, CLOSED, at="02:00.000")]
    wire.state, wire.requests = "closed", []
    await wire.read(Position((900, 0)))
    labels, states = "resource_label_events", "resource_state_events"
    assert wire.asked == ["7", labels, states, labels], "a position must not lack earlier labels"
    wire.requests = []
    await wire.read(Position((900, 11)))
    assert wire.asked == ["7", labels, states]


async def test_a_label_that_was_applied_before_gitlabs_item_was_closed_is_not_found_after_it() -> None:
    """Both happen after the labels were read. The position that has the closing has the label, too."""
    wire = History(platform=Platform.GITLAB)

    def close(path: str) -> None:
        if path.endswith("resource_label_events") and not wire.happened:
            wire.happened.append(Happened(900, ON, TRIGGER, at="01:00.100"))
            wire.happened.append(Happened(11, CLOSED, at="01:00.200"))
            wire.shown, wire.state = [TRIGGER], "closed"

    wire.meanwhile = close
    history = await wire.read(Position((0, 0)))
    assert history.position() == Position((900, 11))
    assert wishes(history, Position((0, 0))).application is None


async def test_gitlabs_lists_that_change_with_each_read_are_an_error() -> None:
    wire = History(platform=Platform.GITLAB, happened=[Happened(11, CLOSED)])

    def label(path: str) -> None:
        if path.endswith("resource_label_events"):
            wire.happened.append(Happened(900 + len(wire.happened), ON, TRIGGER))

    wire.meanwhile = label
    with pytest.raises(ForgeUnavailableError, match="new events of acme/pricing#7"):
        await wire.read()


async def test_gitea_is_searched_for_hidden_entries_only_if_the_item_shows_something_else() -> None:
    """Anybody can refer to an item from a private repository, and the timeline lacks such references."""

    class Hiding(History):
        def _page(self, entries: list[dict[str, Any]], request: httpx2.Request) -> httpx2.Response:
            number = int(request.url.params.get("page", "1"))
            pages = {1: entries[:1], 5: entries[1:]}
            return httpx2.Response(200, content=json.dumps(pages.get(number) or None))

    happened = [Happened(11, ON, TRIGGER), Happened(12, OFF, TRIGGER)]
    wire = Hiding(platform=Platform.GITEA, happened=happened)
    assert [event.id for event in (await wire.read()).events] == [11, 12]
    wire = Hiding(platform=Platform.GITEA, happened=[happened[0]], shown=[TRIGGER])
    await wire.read()
    assert wire.asked == ["7", "timeline", "timeline"]


@EACH_FORGE
async def test_an_item_that_was_deleted_is_an_error(platform: Platform) -> None:
    wire = Wire([answer(200, {"id": 1, "login": "bot", "username": "bot"}), answer(404, {"message": "gone"})])
    with pytest.raises(ForgeNotFoundError):
        await wire.forge(platform).item_history(ITEMS[platform], None)


@pytest.mark.parametrize(
    ("platform", "entries"),
    [
        (Platform.GITHUB, [{"event": "merged"}, {"event": "closed"}]),
        (Platform.GITLAB, [{"state": "merged"}]),
        (Platform.GITEA, [{"type": "merge_pull"}]),
    ],
)
async def test_a_merged_change_was_closed(platform: Platform, entries: list[dict[str, Any]]) -> None:
    item = ITEMS[platform].model_copy(update={"kind": ItemKind.CHANGE})
    ends = [Merged(12 + number, CLOSED, more=entry) for number, entry in enumerate(entries)]
    label = Happened(11, ON, TRIGGER)
    wire = History(platform=platform, happened=[label, *ends], shown=[TRIGGER], state="merged")
    history = await wire.forge(platform).item_history(item, None)
    assert [event.action for event in history.events if not event.label] == [CLOSED] * len(entries)
    assert history.current
    assert wishes(history, None).application is None


def test_lists_are_merged_by_the_times_of_their_first_events() -> None:
    def event(number: int, at: str, series: int) -> ItemEvent:
        found = HistoryEvent.model_validate(Happened(number, ON, TRIGGER, at=at).entry(Platform.GITHUB))
        return ItemEvent(number, ON, TRIGGER, "alice", found.created_at, series)

    labels = [event(1, "05:00", 0), event(2, "01:00", 0), event(3, "06:00", 0)]
    states = [event(1, "05:00", 1), event(2, "05:30", 1)]
    order = [(one.series, one.id) for one in merged(labels, states)]
    assert order == [(1, 1), (0, 1), (0, 2), (1, 2), (0, 3)]
    assert merged(labels, []) == labels
    assert merged([], states) == states


def test_an_entry_that_two_pages_have_is_one_event() -> None:
    settings: Any = Wire([]).forge(Platform.GITHUB).settings
    entry = HistoryEvent.model_validate(Happened(11, ON, TRIGGER).entry(Platform.GITHUB))
    assert len(item_events([entry, entry], {"labeled": ON}, settings)) == 1
