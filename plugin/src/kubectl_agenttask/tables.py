"""Turns tasks into rows of text, and prints rows: in color on a terminal, as whole lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.task.agenttask import ANNOTATION_CANCELLED_BY, ANNOTATION_CREATED_BY, LABEL_ITEM
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Phase, parse_time
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kubectl_agenttask import plain, without_controls

Body = Mapping[str, Any]

COLUMNS = ("NAME", "REPOSITORY", "ITEM", "PHASE", "ATTEMPT", "CHANGE", "REASON", "DURATION", "AGE")
WIDE = (*COLUMNS, "USER", "ORIGIN", "QUEUE", "COST")
CONDITIONS = ("TYPE", "STATUS", "REASON", "AGE", "MESSAGE")
ATTEMPTS = ("NUMBER", "OUTCOME", "REASON", "STARTED", "TOOK", "COST", "MESSAGE")
DENIED = ("ATTEMPT", "HOST", "TIMES")
SPENT = ("ATTEMPTS", "REQUESTS", "TOKENS IN", "TOKENS OUT", "COST")
MODELS = ("MODEL", "REQUESTS", "TOKENS IN", "TOKENS OUT", "COST")
TRANSCRIPTS = ("ATTEMPT", "PLACE", "LINK")
_ADOPTED = 30.0
"""Seconds within which an operator adopts a new task, even if it must take over a Lease first."""
EVENTS = ("TYPE", "REASON", "AGE", "MESSAGE")


def change_of(runs: Iterable[Body]) -> str:
    """Return the address of the change that runs of one item work on; the newest run that has one decides."""
    ordered = sorted(runs, key=_run)
    return next(
        (url for run in reversed(ordered) if (url := _text(run, "status", "result", "changeURL"))), ""
    )


def task_rows(tasks: Iterable[Body], now: datetime) -> list[tuple[str, ...]]:
    """Return a row of `COLUMNS` for each task; the oldest is first.

    A run that has no change yet shows that of the item's earlier runs, if these are among the tasks.
    """
    ordered = sorted(tasks, key=_created)
    runs: dict[str, list[Body]] = {}
    for task in ordered:
        runs.setdefault(_text(task, "metadata", "labels", LABEL_ITEM) or _name(task), []).append(task)
    changes = {
        _name(task): change_of(of_item[: place + 1])
        for of_item in runs.values()
        for place, task in enumerate(sorted(of_item, key=_run))
    }
    return [
        (
            _name(task),
            _text(task, "spec", "source", "repository"),
            item_text(task),
            phase(task),
            _text(task, "status", "attempt"),
            changes[_name(task)],
            _text(task, "status", "reason"),
            _text(task, "status", "duration"),
            age(_text(task, "metadata", "creationTimestamp"), now),
        )
        for task in ordered
    ]


def wide_rows(tasks: Iterable[Body], now: datetime) -> list[tuple[str, ...]]:
    """Return a row of `WIDE` for each task; the oldest is first."""
    ordered = sorted(tasks, key=_created)
    more = [
        (
            _text(task, "spec", "user"),
            _text(task, "spec", "trigger", "origin"),
            _text(task, "status", "queuePosition"),
            _cost(_at(task, "status", "result", "usage")),
        )
        for task in ordered
    ]
    return [row + wide for row, wide in zip(task_rows(ordered, now), more, strict=True)]


def state_text(task: Body, ended: Phase | None = None) -> str:
    """Return a task's name and its state: `NAME Succeeded (Completed): ADDRESS OF THE CHANGE`.

    Args:
        ended: how the task ended by its conditions, which are authoritative.
    """
    shown = phase(task) if ended is None else ended.value
    reason, position = _text(task, "status", "reason"), _text(task, "status", "queuePosition")
    attempt, change = _text(task, "status", "attempt"), _text(task, "status", "result", "changeURL")
    texts = [
        f"agenttask {_name(task)} {shown}",
        f" ({reason})" if reason and reason != shown else "",
        f", position {position}" if position else "",
        f", attempt {attempt}" if attempt else "",
        f": {change}" if change else "",
    ]
    return "".join(texts)


def widths(rows: Iterable[Sequence[str]]) -> tuple[int, ...]:
    """Return the width of each column, for `aligned`."""
    return tuple(max(map(len, column)) for column in zip(*rows, strict=True))


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row as text, for a table to which later rows are added one by one."""
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "   ".join(cells).rstrip()


def facts(task: Body, now: datetime) -> list[tuple[str, str]]:
    """Return the names and values that `describe` prints above its tables, without empty values."""
    spec, created = task.get("spec") or {}, _text(task, "metadata", "creationTimestamp")
    reason, position = _text(task, "status", "reason"), _text(task, "status", "queuePosition")
    labeled, usage = _text(task, "spec", "trigger", "labeledAt"), _at(task, "status", "result", "usage")
    pairs = [
        ("Name", _name(task)),
        ("Namespace", _text(task, "metadata", "namespace")),
        ("Item", f"{_text(task, 'spec', 'source', 'repository')}{item_text(task)}"),
        ("Title", _text(task, "spec", "title")),
        ("URL", _text(task, "spec", "url")),
        ("Phase", phase(task) + (f" ({reason})" if reason and reason != phase(task) else "")),
        ("Position", position),
        ("Run", _text(task, "spec", "run")),
        ("Attempt", _text(task, "status", "attempt")),
        ("Next attempt", _text(task, "status", "nextAttemptTime")),
        ("User", _text(task, "spec", "user")),
        ("Origin", _text(task, "spec", "trigger", "origin") + (f", labeled at {labeled}" if labeled else "")),
        ("Created", f"{created} ({age(created, now)} ago)" if created else ""),
        ("Created by", _text(task, "metadata", "annotations", ANNOTATION_CREATED_BY)),
        ("Priority", str(spec.get("priority") or "")),
        ("Cancel", "requested" if spec.get("cancel") else ""),
        ("Cancelled by", _text(task, "metadata", "annotations", ANNOTATION_CANCELLED_BY)),
        ("Suspend", "yes" if spec.get("suspend") else ""),
        ("Branch", _text(task, "status", "result", "branch")),
        ("Change", _text(task, "status", "result", "changeURL")),
        ("Summary", _text(task, "status", "result", "summary")),
        ("Verification", plain(_text(task, "status", "verify", "description"))),
        ("Environment", _environment(_at(task, "status", "environment"))),
        ("Budget", _allowance(spec.get("budget"))),
        ("Usage", _usage(usage) if isinstance(usage, Mapping) and usage.get("requests") else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _environment(asked: Any) -> str:
    """Return the environment that the repository asked for; empty if it asked for none."""
    try:
        return str(Environment.model_validate(asked)) if asked else ""
    except ValueError:
        return "not readable"  # it is from another release


def condition_rows(task: Body, now: datetime) -> list[tuple[str, ...]]:
    """Return a row for each condition of a task, for the table `CONDITIONS`."""
    return [
        (
            _text(condition, "type"),
            _text(condition, "status"),
            _text(condition, "reason"),
            age(_text(condition, "lastTransitionTime"), now),
            _text(condition, "message"),
        )
        for condition in _list(task, "conditions")
    ]


def attempt_rows(task: Body) -> list[tuple[str, ...]]:
    """Return the rows of `ATTEMPTS`."""
    return [
        (
            _text(attempt, "number"),
            _text(attempt, "outcome") or "running",
            _text(attempt, "reason"),
            _text(attempt, "startTime"),
            _between(attempt.get("startTime"), attempt.get("completionTime")),
            _cost(attempt.get("usage")),
            _text(attempt, "message"),
        )
        for attempt in _list(task, "attempts")
    ]


def denied_rows(task: Body) -> list[tuple[str, ...]]:
    """Return the rows of `DENIED`: hosts that an administrator can allow in `egress.allow`."""
    return [
        (_text(attempt, "number"), _text(denial, "host"), _text(denial, "count"))
        for attempt in _list(task, "attempts")
        for denial in attempt.get("denied") or ()
    ]


def spent_rows(tasks: Iterable[Body], by: str, since: datetime) -> list[tuple[str, ...]]:
    """Return rows of a name and `SPENT` for attempts that ended since a time; the most expensive is first.

    Args:
        by: what a row stands for: `repository`, `user` or `model`.
    """
    numbers: dict[str, list[int]] = {}
    costs: dict[str, dict[str, Decimal]] = {}
    for task in tasks:
        for attempt in _list(task, "attempts"):
            ended, usage = parse_time(attempt.get("completionTime")), attempt.get("usage")
            if ended is None or ended < since or not isinstance(usage, Mapping):
                continue
            for used in _by_model(usage) if by == "model" else [usage]:
                name = {
                    "repository": _text(task, "spec", "source", "repository"),
                    "user": _text(task, "spec", "user"),
                    "model": _text(used, "model"),
                }[by] or "unknown"
                sums = [
                    old + new
                    for old, new in zip(numbers.get(name, [0] * 4), (1, *_counts(used)), strict=True)
                ]
                numbers[name] = sums
                if isinstance(cost := used.get("cost"), Mapping):
                    own, unit = costs.setdefault(name, {}), _text(cost, "currency")
                    own[unit] = own.get(unit, Decimal(0)) + Decimal(_text(cost, "amount"))
    names = sorted(numbers, key=lambda name: (-max(costs.get(name, {}).values(), default=Decimal(0)), name))
    return [
        (
            name,
            *map(str, numbers[name]),
            " + ".join(f"{value:f} {unit}" for unit, value in sorted(costs.get(name, {}).items())),
        )
        for name in names
    ]


def model_rows(task: Body) -> list[tuple[str, ...]]:
    """Return the rows of `MODELS`: a task's usage of each model, if there were several."""
    models = _at(task, "status", "result", "usage", "models") or []
    return [(_text(used, "model"), *map(str, _counts(used)), _cost(used)) for used in models]


def transcript_rows(task: Body) -> list[tuple[str, ...]]:
    """Return the rows of `TRANSCRIPTS`: the attempts whose whole transcript is kept."""
    return [
        (_text(attempt, "number"), _text(attempt, "transcript"), _text(attempt, "transcriptURL"))
        for attempt in _list(task, "attempts")
        if attempt.get("transcript")
    ]


def last_steps(task: Body) -> tuple[str, list[str]] | None:
    """Return the number of the newest attempt that left its last steps, and the lines of these steps."""
    for attempt in reversed(_list(task, "attempts")):
        if attempt.get("tail"):
            return _text(attempt, "number"), [plain(line) for line in str(attempt["tail"]).split("\n")]
    return None


def event_rows(events: Iterable[Body], now: datetime) -> list[tuple[str, ...]]:
    """Return the rows of `EVENTS`."""
    return [
        (
            _text(event, "type"),
            _text(event, "reason"),
            age(_text(event, "lastTimestamp") or _text(event, "eventTime"), now),
            _text(event, "message"),
        )
        for event in events
    ]


def phase(task: Body) -> str:
    """Return the phase. It is `New` for a task that no operator has seen yet."""
    return _text(task, "status", "phase") or "New"


def no_operator_hint(task: Body, now: datetime) -> str:
    """Return a hint if no operator has processed a task in the usual time; otherwise an empty text."""
    created = parse_time(_text(task, "metadata", "creationTimestamp"))
    if phase(task) != "New" or created is None or (now - created).total_seconds() < _ADOPTED:
        return ""
    namespace = _text(task, "metadata", "namespace")
    return (
        "No operator has processed this task yet. Is one running for this namespace? "
        f"kubectl get deployments,leases -n {namespace}"
    )


def item_text(task: Body) -> str:
    """Return the item's mark: `#7`, or `!7` for a merge request."""
    platform, number = _text(task, "spec", "source", "platform"), _text(task, "spec", "source", "number")
    is_change = _text(task, "spec", "source", "kind") == ItemKind.CHANGE and platform in list(Platform)
    return f"{FACTS[Platform(platform)].change_mark if is_change else '#'}{number}"


def age(moment: str, now: datetime) -> str:
    """Return how long ago a time was, as kubectl writes it: `12s`, `5m`, `3h`, `2d`."""
    then = parse_time(moment)
    return "" if then is None else span((now - then).total_seconds())


def span(seconds: float) -> str:
    """Return a duration as text in one unit, or in two units if it is from 2 to 10 minutes."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if days < 2:
        return f"{hours}h"
    return f"{days}d"


def _between(start: object, end: object) -> str:
    begun, ended = parse_time(start), parse_time(end)
    return span((ended - begun).total_seconds()) if begun and ended else ""


def _cost(usage: Any) -> str:
    cost = usage.get("cost") if isinstance(usage, Mapping) else None
    return plain(f"{cost.get('amount')} {cost.get('currency')}") if isinstance(cost, Mapping) else ""


def _by_model(usage: Body) -> list[Body]:
    """Return the usage of each model. If there was only one model, `usage` does not list it."""
    return list(usage.get("models") or [usage])


def _counts(usage: Body) -> tuple[int, int, int]:
    requests, tokens_in, tokens_out = (
        int(usage.get(key) or 0) for key in ("requests", "inputTokens", "outputTokens")
    )
    return requests, tokens_in, tokens_out


def _allowance(budget: Any) -> str:
    if not isinstance(budget, Mapping):
        return ""
    return plain(
        f"{budget['tokens']} tokens" if budget.get("tokens") is not None else _cost({"cost": budget})
    )


def _usage(usage: Mapping[str, Any]) -> str:
    tokens = f"{usage.get('requests', 0)} requests, {usage.get('inputTokens', 0)} tokens in, "
    cost = f", {_cost(usage)}" if _cost(usage) else ""
    return plain(f"{tokens}{usage.get('outputTokens', 0)} out{cost}")


def _run(task: Body) -> int:
    run = _at(task, "spec", "run")
    return run if isinstance(run, int) else 1


def _created(task: Body) -> tuple[str, str]:
    """Return the sort key of rows: the oldest task first."""
    return _text(task, "metadata", "creationTimestamp"), _name(task)


def _name(task: Body) -> str:
    return _text(task, "metadata", "name")


def _at(body: Any, *path: str) -> Any:
    for key in path:
        body = body.get(key) if isinstance(body, Mapping) else None
    return body


def _text(body: Body, *path: str) -> str:
    value = _at(body, *path)
    return "" if value is None else plain(value)


def _list(task: Body, name: str) -> list[Body]:
    found = _at(task, "status", name)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


_PIPED_WIDTH = 1000
"""The width without a terminal, because `grep` and `awk` need one line for each task."""
_COLOURS = {
    "Queued": "cyan",
    "New": "cyan",
    "Starting": "blue",
    "Running": "blue",
    "Backoff": "yellow",
    "Suspended": "magenta",
    "Succeeded": "green",
    "Failed": "red",
    "Cancelled": "bright_black",
    "Warning": "yellow",
}


class CleanConsole(Console):
    """A console that replaces control characters other than line ends and tabs.

    Forges, models, logs and the API server send text that people of theirs wrote. rich removes only a few
    control characters, and an escape sequence could rewrite what a terminal shows, or what it runs.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # The console's own sequences are in `control`, and its colors in `style`.
            clean = segment.text if segment.control else without_controls(segment.text)
            yield segment if clean == segment.text else segment._replace(text=clean)


def console(stream: TextIO) -> Console:
    """Return a console on the stream."""
    width = None if stream.isatty() else _PIPED_WIDTH
    return CleanConsole(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show_table(to: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in the style of kubectl."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number, column in enumerate(columns):
        # People copy names, so these stay whole. Other columns may be folded on a narrow terminal.
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    _print(to, table)


def show_facts(to: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair on each line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(f"{name}:"), Text(value, style=_COLOURS.get(value.split(" ")[0], "")))
    _print(to, table)


def _print(to: Console, table: Table) -> None:
    """Print a table; in a pipe, without the (perhaps hundreds of) spaces that fill its last column."""
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as shown:
        to.print(table)
    to.file.writelines(f"{line.rstrip()}\n" for line in shown.get().splitlines())
