"""The report about a run of `make chaos`: figures, recovery times, and a timeline of each violated item.

A fault's *recovery* is the time from its end, when the broken part serves again, to the first sign of
progress of work that waited. Work waits at that moment if its run has not ended, or if the last label or
command on its item has no run yet. A sign of progress is a new phase, a new or ended pod, or something that
the bot writes or pushes for the item. If nothing waited, the fault has no recovery time. Progress that did
not depend on the broken part counts too: the figures show that the system went on, not when each part did.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from tests.chaos.history import ENDED, Fault, History, ItemKey
from tests.chaos.items import requests_of
from tests.chaos.judge import Verdict
from tests.chaos.promises import KINDS, Promises, is_branch_of
from tests.chaos.timeline import as_svg, as_text, timeline

NO_VIOLATION = "no violation"
MOST_LINES = 400
"""Lines of a timeline in the report; the picture has all of them."""


@dataclass(frozen=True)
class Setup:
    """How a run was set up.

    Attributes:
        seconds: how long people acted.
        mode: `kubernetes` or `rabbitmq`, or the name of another system.
        faults: how many faults were planned; 0: races only.
        started, ended: of the history.
        description: machine, versions and commit.
        broken: why the run says nothing about the system: a fault could not begin or end. Empty: it does.
    """

    seed: int
    seconds: float
    mode: str
    forge: str
    applications: int
    faults: int
    started: datetime
    ended: datetime
    promises: Promises
    description: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""


@dataclass(frozen=True)
class Recovery:
    """How a fault went; times in seconds.

    Attributes:
        repair: from the moment in which its end was asked for until the part served again.
        progress: its recovery, as the module says; `None`: nothing waited, or nothing came of it.
        waited: items whose work waited at its end.
    """

    fault: Fault
    repair: float
    progress: float | None
    waited: int


def recoveries(history: History, promises: Promises) -> list[Recovery]:
    """How each fault went, oldest first."""
    signs = {key: sorted(_signs(key, history, promises)) for key in history.runs}
    for act in history.acts:
        if act.item is not None:
            signs.setdefault(act.item, [])
    asked = {key: requests_of(key, history, promises) for key in signs}
    found = []
    for fault in history.faults:
        waiting = [key for key in signs if _waits(key, fault.end, history, asked[key])]
        after = [at for key in waiting for at in signs[key] if at > fault.end]
        progress = (min(after) - fault.end).total_seconds() if after else None
        repair = (fault.end - fault.asked).total_seconds()
        found.append(Recovery(fault, repair, progress, len(waiting)))
    return found


def _waits(key: ItemKey, at: datetime, history: History, asked: Sequence[datetime]) -> bool:
    runs = history.runs.get(key, ())
    if any(run.created <= at and (run.ended is None or run.ended > at) for run in runs):
        return True
    last = max((moment for moment in asked if moment <= at), default=None)
    return (
        last is not None
        and any(run.created > at for run in runs)
        and not any(last - timedelta(seconds=1) <= run.created <= at for run in runs)
    )


def _signs(key: ItemKey, history: History, promises: Promises) -> Iterator[datetime]:
    for run in history.runs[key]:
        yield run.created
        yield from (at for at, _ in run.phases)
        for pod in run.pods:
            yield pod.started
            if pod.ended is not None:
                yield pod.ended
    for act in history.acts:
        pushed = act.repository == key[:2] and is_branch_of(act.branch, key, promises)
        if act.actor == promises.bot and (act.item == key or pushed):
            yield act.at


def figures(history: History, verdict: Verdict) -> dict[str, int]:
    """The counts of a run: what was expected and observed, and each kind of violation."""
    ended = [run for runs in history.runs.values() for run in runs if run.phase in ENDED]
    return {
        "expected": verdict.applications,
        "observed": verdict.runs,
        "rounds": verdict.rounds,
        "ended": len(ended),
        "succeeded": sum(run.phase == "Succeeded" for run in ended),
        **{kind: verdict.kinds[kind] for kind in KINDS},
        "unknown": len(verdict.unknown),
    }


def operations(history: History) -> dict[str, tuple[int, int]]:
    """How often people did what, and how often the forge's state did not allow it, by kind."""
    done: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for operation in history.operations:
        if operation.step == 0:
            (skipped if operation.skipped else done)[operation.kind] += 1
    return {kind: (done[kind], skipped[kind]) for kind in sorted(done | skipped)}


def write_report(folder: Path, setup: Setup, history: History, verdict: Verdict, sha256: str) -> Path:
    """Write `report.md` and a picture of each violated item; the report's path.

    Args:
        sha256: of the history's file.
    """
    for old in folder.glob("item-*.svg"):
        old.unlink()
    parts = [_head(setup, history, verdict, sha256), _figures(history, verdict)]
    parts += [_operations(history), _faults(history, setup.promises)]
    if verdict.unknown:
        parts.append("## Unknown\n\n" + "\n".join(f"- {line}" for line in verdict.unknown))
    if verdict.violations:
        listed = "\n".join(f"- `{violation}`" for violation in verdict.violations)
        parts.append(f"## Violations\n\n{listed}")
    for key in dict.fromkeys(violation.item for violation in verdict.violations):
        if key is not None:
            parts.append(_item(folder, key, setup, history, verdict))
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return report


def outcome(setup: Setup, verdict: Verdict) -> str:
    """In one phrase what the run says."""
    if setup.broken:
        return f"says nothing: the test bed broke ({setup.broken})"
    if not verdict.violations:
        return NO_VIOLATION
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(verdict.kinds.items()))
    return f"{len(verdict.violations)} violations: {counts}"


def _head(setup: Setup, history: History, verdict: Verdict, sha256: str) -> str:
    facts = {
        "outcome": outcome(setup, verdict),
        "seed": str(setup.seed),
        "mode": setup.mode,
        "forge": setup.forge,
        "planned": f"{setup.applications} applications, {setup.faults} faults in {setup.seconds:.0f} s",
        "from": f"{setup.started:%Y-%m-%d %H:%M:%S %Z} to {setup.ended:%H:%M:%S}",
        "last act of people after": f"{_last_act(setup, history):.0f} s",
        "SHA-256 of the history": sha256,
    }
    facts |= {name: text for name, text in setup.description.items() if name not in facts}
    return f"# Chaos run {setup.seed}\n\n" + _table(("fact", "value"), facts.items())


def _last_act(setup: Setup, history: History) -> float:
    """Seconds from the start of the run; 0 without acts."""
    ends = [(one.at - setup.started).total_seconds() for one in history.operations]
    return max(ends, default=0.0)


def _figures(history: History, verdict: Verdict) -> str:
    rows = [(name, str(count)) for name, count in figures(history, verdict).items()]
    return (
        "## Figures\n\nExpected are the applications of the label by people, observed the runs.\n\n"
        + _table(("what", "count"), rows)
    )


def _operations(history: History) -> str:
    rows = [(kind, str(done), str(skipped)) for kind, (done, skipped) in operations(history).items()]
    return "## What people did\n\n" + (
        _table(("kind", "done", "not possible then"), rows) if rows else "Nothing was recorded."
    )


def _faults(history: History, promises: Promises) -> str:
    if not history.faults and not history.missed_faults:
        return "## Faults\n\nNothing was broken in this run: races only."
    by_kind: dict[str, list[Recovery]] = {}
    found = recoveries(history, promises)
    for recovery in found:
        by_kind.setdefault(recovery.fault.kind, []).append(recovery)
    rows = [
        (
            kind,
            str(len(some)),
            _spread([one.repair for one in some]),
            _spread([one.progress for one in some if one.progress is not None]),
            str(sum(one.waited == 0 for one in some)),
            str(sum(one.fault.hit is False for one in some)),
        )
        for kind, some in sorted(by_kind.items())
    ]
    each = [
        (
            str(one.fault.id),
            one.fault.kind,
            f"{one.fault.start:%H:%M:%S}",
            f"{one.fault.end:%H:%M:%S}",
            str(one.waited),
            "" if one.progress is None else f"{one.progress:.1f}",
            ("nothing: " if one.fault.hit is False else "") + one.fault.effect,
        )
        for one in found
    ]
    each += [
        (str(one.id), one.kind, "", "", "", "", f"nothing to break: {one.why}")
        for one in history.missed_faults
    ]
    return "\n\n".join(
        [
            "## Faults",
            "*Repair* is the time until the part served again, *recovery* the time from then to the first "
            "sign of progress of work that waited: a phase, a pod, or something that the bot wrote or "
            "pushed. Both are median and maximum, in seconds. *What it hit* is a count that was taken while "
            "the fault lasted: requests that it changed, packets that it dropped, processes that it ended "
            "or stopped.",
            _table(("kind", "count", "repair", "recovery", "nothing waited", "hit nothing"), rows),
            _table(("id", "kind", "start", "end", "items that waited", "recovery", "what it hit"), each),
        ]
    )


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "none"


def _item(folder: Path, key: ItemKey, setup: Setup, history: History, verdict: Verdict) -> str:
    entries = timeline(key, history, setup.promises, verdict.violations)
    name = "item-" + re.sub(r"[^A-Za-z0-9]+", "-", f"{key.repository}-{key.kind}-{key.number}") + ".svg"
    (folder / name).write_text(as_svg(entries, f"{key}, seed {setup.seed}"), encoding="utf-8")
    lines = as_text(entries).splitlines()
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"… and {len(lines) - MOST_LINES} more: see the picture"]
    text = "\n".join(lines)
    return f"## {key}\n\n![What happened to it]({name})\n\n```text\n{text}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)
