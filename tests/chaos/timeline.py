"""What happened to one item, merged from all records: as text, and as a picture (SVG). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from itertools import zip_longest

from tests.chaos.history import ENDED, Act, History, ItemKey, Run
from tests.chaos.promises import Promises, Violation, is_branch_of
from tests.chaos.readers import shown_state

LANES = (
    "people",
    "deliveries",
    "tasks",
    "pods",
    "pushes",
    "checks",
    "comment and labels",
    "violations",
    "faults",
)
"""From top to bottom."""
_COLORS = {
    "people": "#1d76db",
    "deliveries": "#8250df",
    "tasks": "#57a773",
    "pods": "#0e8a16",
    "pushes": "#b35900",
    "checks": "#bf3989",
    "comment and labels": "#6e7781",
    "violations": "#b60205",
    "faults": "#d4a72c",
}


@dataclass(frozen=True)
class Entry:
    """A line of the timeline.

    Attributes:
        end: of what lasts; `None`: it happened in one moment.
    """

    at: datetime
    lane: str
    text: str
    end: datetime | None = None


def timeline(
    key: ItemKey, history: History, promises: Promises, violations: Iterable[Violation]
) -> list[Entry]:
    """Everything about an item in the order of time, and the faults in that time.

    If a limit is violated, the pods of all other items are there too.
    """
    own = [violation for violation in violations if violation.item == key]
    entries = [Entry(one.at, "violations", f"{one.kind}: {one.text}") for one in own]
    entries += _acts(key, history, promises)
    for delivery in history.deliveries:
        if delivery.item == key:
            what = " ".join(filter(None, (delivery.event, delivery.label)))
            entries.append(Entry(delivery.at, "deliveries", f"{what}: {delivery.status or 'no answer'}"))
    for one in history.mergeability:
        if one.item == key:
            word = "merges with" if one.merges else "conflicts with"
            entries.append(Entry(one.at, "checks", f"{one.head[:8]} {word} {one.base[:8]}"))
    crowded = any(violation.kind == "limit" for violation in own)
    for item, runs in history.runs.items():
        for run in runs:
            if item == key:
                entries += _phases(run, history)
            if item == key or crowded:
                entries += [
                    Entry(pod.started, "pods", pod.name, pod.ended or history.end) for pod in run.pods
                ]
    if entries:
        first = min(entry.at for entry in entries)
        last = max(entry.end or entry.at for entry in entries)
        entries += [
            Entry(fault.start, "faults", f"{fault.id} {fault.kind}", fault.end)
            for fault in history.faults
            if fault.start <= last and fault.end >= first
        ]
    return sorted(entries, key=lambda entry: (entry.at, LANES.index(entry.lane)))


def _acts(key: ItemKey, history: History, promises: Promises) -> Iterator[Entry]:
    own = next((act.branch for act in history.acts if (act.item, act.event) == (key, "opened")), "")
    heads: set[str] = set()
    for act in history.acts:
        by_bot = act.actor == promises.bot
        pushed = act.event == "pushed" and act.repository == key[:2]
        opened = act.event == "opened" and act.repository == key[:2]
        if pushed and (is_branch_of(act.branch, key, promises) or (own and act.branch == own)):
            heads.add(act.commit)
            yield Entry(act.at, "pushes", f"{act.actor} pushes {act.branch} {act.commit[:8]}")
        elif opened and is_branch_of(act.branch, key, promises) and act.item != key:
            yield Entry(act.at, "pushes", f"{act.actor} opens {act.item}")
        elif act.event in ("check", "rerun") and act.commit in heads:
            what = " ".join(filter(None, (act.check, act.event, act.state, act.commit[:8])))
            yield Entry(act.at, "checks", what)
        elif act.item == key:
            yield Entry(act.at, "comment and labels" if by_bot else "people", _said(act, by_bot=by_bot))


def _said(act: Act, *, by_bot: bool) -> str:
    state = shown_state(act.body)
    what = act.label
    if state is not None:
        what = f"run {state.number} {state.phase}"
    elif act.event in ("commented", "review_commented", "reviewed"):
        what = act.state or (act.body.splitlines() or [""])[0][:40]
    who = "" if by_bot else f"{act.actor} "
    return f"{who}{act.event} {what}".rstrip()


def _phases(run: Run, history: History) -> Iterator[Entry]:
    of = f" ({run.round.kind})" if run.round else ""
    yield Entry(run.created, "tasks", f"run {run.number}{of} created")
    for (at, phase), after in zip_longest(run.phases, run.phases[1:]):
        end = after[0] if after else None if phase in ENDED else history.end
        how = f", {run.round.end}" if run.round and run.round.end and phase in ENDED else ""
        yield Entry(at, "tasks", f"run {run.number} {phase}{how}", end)


def as_text(entries: Sequence[Entry]) -> str:
    """A line for each entry, and one for each end of what lasts."""
    moments = [(entry.at, entry.lane, entry.text + (" …" if entry.end else "")) for entry in entries]
    ended = [entry for entry in entries if entry.end and entry.lane != "tasks"]
    moments += [(entry.end, entry.lane, f"… {entry.text} ends") for entry in ended if entry.end]
    return "\n".join(
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03} {lane:<18} {text}" for at, lane, text in sorted(moments)
    )


_WIDTH, _LEFT, _ROW, _TOP = 1400, 150, 16, 40
_CHARACTER = 6.2
"""Pixels of a letter, for texts that must not overlap."""


def as_svg(entries: Sequence[Entry], title: str) -> str:
    """The timeline as a picture: a lane for each kind of record, time from left to right."""
    if not entries:
        return ""
    first = min(entry.at for entry in entries if entry.lane != "faults")
    last = max(entry.end or entry.at for entry in entries if entry.lane != "faults")
    seconds = max(1.0, (last - first).total_seconds())
    scale = (_WIDTH - _LEFT - 20) / seconds

    def x(at: datetime) -> float:
        return _LEFT + min(seconds, max(0.0, (at - first).total_seconds())) * scale

    drawn, y = [], _TOP
    for lane in LANES:
        rows: list[float] = []
        lines = []
        for entry in (one for one in entries if one.lane == lane):
            left, right = x(entry.at), x(entry.end or entry.at)
            width = 10 + len(entry.text) * _CHARACTER
            flipped = left + width > _WIDTH
            begins, ends = (left - width, right) if flipped else (left, max(right, left + width))
            row = next((number for number, taken in enumerate(rows) if taken <= begins), len(rows))
            rows[row : row + 1] = [ends]
            lines.append(_mark(entry, left, right, y + row * _ROW, flipped=flipped))
        height = max(1, len(rows)) * _ROW + 8
        drawn.append(f'<text x="8" y="{y + 12}" class="lane">{escape(lane)}</text>')
        drawn.append(f'<line x1="0" y1="{y + height - 4}" x2="{_WIDTH}" y2="{y + height - 4}" class="rule"/>')
        drawn += lines
        y += height
    ticks = list(_ticks(first, seconds, scale, y))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 30}" '
            f'viewBox="0 0 {_WIDTH} {y + 30}" role="img">',
            f"<title>{escape(title)}</title>",
            "<style>text{font:11px sans-serif;fill:#24292f}.lane{font-weight:bold}"
            ".rule{stroke:#d0d7de}.tick{stroke:#eaeef2}</style>",
            f'<rect width="{_WIDTH}" height="{y + 30}" fill="white"/>',
            f'<text x="8" y="20" style="font-size:14px">{escape(title)}</text>',
            *ticks,
            *drawn,
            "</svg>",
            "",
        ]
    )


def _mark(entry: Entry, left: float, right: float, y: float, *, flipped: bool) -> str:
    """A bar for what lasts and a dot for a moment, with its text; `flipped`: which is to the left of it."""
    color = _COLORS[entry.lane]
    text, place = escape(entry.text), f"{entry.at:%H:%M:%S}.{entry.at.microsecond // 1000:03}"
    if entry.end is not None:
        width = max(2.0, right - left)
        shape = (
            f'<rect x="{left:.1f}" y="{y + 2:.1f}" width="{width:.1f}" height="12" '
            f'fill="{color}" fill-opacity="0.3"/>'
        )
    else:
        shape = f'<circle cx="{left:.1f}" cy="{y + 8:.1f}" r="3.5" fill="{color}"/>'
    anchor = ' text-anchor="end"' if flipped else ""
    label = f'<text x="{left + (-6 if flipped else 6):.1f}" y="{y + 12:.1f}"{anchor}>{text}</text>'
    return f"<g><title>{place} {text}</title>{shape}{label}</g>"


def _ticks(first: datetime, seconds: float, scale: float, bottom: float) -> Iterator[str]:
    step = next((one for one in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if seconds / one <= 14), 1200)
    at = first.replace(microsecond=0) + timedelta(seconds=1)
    at += timedelta(seconds=-at.timestamp() % step)
    while (at - first).total_seconds() <= seconds:
        x = _LEFT + (at - first).total_seconds() * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" class="tick"/>'
        yield f'<text x="{x - 24:.1f}" y="{bottom + 16}">{at:%H:%M:%S}</text>'
        at += timedelta(seconds=step)
