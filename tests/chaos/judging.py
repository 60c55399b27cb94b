"""The folder of a run: its history and how it was set up, written once, and judged as often as one likes.

    write_run(folder, setup, records)
    sys.exit(judge_folder(folder))

`history.jsonl.xz` has the records, `run.json` the setup. A judgment adds `report.md`, pictures, and the
figures in `verdict.json`. It needs the folder alone: no cluster, no forge, and nothing of the product.

To see what the judge says of a history that somebody has changed:

    setup, records = read_setup(folder), read_records(folder)
    records.remove(…)
    print(verdict_of(setup, records).text())
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.chaos.history import History, Reader, read_history
from tests.chaos.judge import Verdict, judge
from tests.chaos.promises import Promises, RoundPromises
from tests.chaos.readers import agent_task_runs, comment_runs, strays, undeleted
from tests.chaos.report import Setup, figures, outcome, write_report

HISTORY, RUN, VERDICT = "history.jsonl.xz", "run.json", "verdict.json"
CLEAN, VIOLATED, BROKEN = 0, 1, 2
"""The exit status: no violation; violations; or the run says nothing, because its test bed broke."""


class UnreadableRunError(Exception):
    """A run's folder cannot be judged; the message says why."""


def write_run(folder: Path, setup: Setup, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records and the setup of a run to its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(folder / HISTORY, "wb") as file:
        for record in records:
            file.write(json.dumps(record, default=str, sort_keys=True).encode() + b"\n")
    text = json.dumps(asdict(setup), default=_plain, indent=2, sort_keys=True)
    (folder / RUN).write_text(text + "\n", encoding="utf-8")


def judge_folder(folder: Path, reader: Reader | None = None) -> int:
    """Judge a run's folder and write its report; prints the verdict.

    Args:
        reader: of another system; by default, of this project in the run's mode.

    Returns:
        `CLEAN`, `VIOLATED` or `BROKEN`.

    Raises:
        UnreadableRunError: the folder lacks its history or its setup, or one of them cannot be read.
    """
    setup = read_setup(folder)
    history = history_of(setup, read_records(folder), reader)
    verdict = judge(history, setup.promises)
    sha256 = hashlib.sha256((folder / HISTORY).read_bytes()).hexdigest()
    report = write_report(folder, setup, history, verdict, sha256)
    _write_verdict(folder, setup, history, verdict, sha256)
    print(f"{outcome(setup, verdict)}\n{verdict.text()}\n{report}")
    if setup.broken:
        return BROKEN
    return VIOLATED if verdict.violations else CLEAN


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, as `history.py` describes them.

    Raises:
        UnreadableRunError: the folder has no history, or it cannot be read.
    """
    try:
        with lzma.open(folder / HISTORY, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        raise UnreadableRunError(
            f"{folder} has no {HISTORY}, so it cannot be judged again. Of older published runs only the "
            f"report is kept."
        ) from error
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise UnreadableRunError(f"{folder / HISTORY} cannot be read: {error}") from error


def verdict_of(setup: Setup, records: Sequence[Mapping[str, Any]], reader: Reader | None = None) -> Verdict:
    """What the judge says of these records, in any order.

    Raises:
        UnreadableRunError: one of them is not a record.
    """
    return judge(history_of(setup, records, reader), setup.promises)


def history_of(setup: Setup, records: Sequence[Mapping[str, Any]], reader: Reader | None = None) -> History:
    """The history in these records.

    Args:
        reader: as in `judge_folder`.

    Raises:
        UnreadableRunError: one of them is not a record.
    """
    if reader is None:
        reader = agent_task_runs if setup.mode == "kubernetes" else comment_runs(setup.promises.bot)
    lines = (json.dumps(record, default=str, sort_keys=True) for record in records)
    try:
        history = read_history(lines, reader, end=setup.ended)
    except ValueError as error:
        raise UnreadableRunError(f"the history cannot be read: {error}") from error
    runs = [run for found in history.runs.values() for run in found]
    return replace(history, strays=strays(records, runs), undeleted=tuple(undeleted(records)))


def read_setup(folder: Path) -> Setup:
    """How a run was set up.

    Raises:
        UnreadableRunError: the folder has no `run.json`, or it cannot be read.
    """
    try:
        stored = json.loads((folder / RUN).read_text(encoding="utf-8"))
        promises = stored.pop("promises")
        for name in ("triggers", "members", "fails_without_attempt", "not_promised"):
            promises[name] = frozenset(promises.get(name, ()))
        for name in ("repository_budget", "answer_cost"):
            promises[name] = None if promises[name] is None else Decimal(promises[name])
        if promises.get("rounds") is not None:
            promises["rounds"] = RoundPromises(**promises["rounds"])
        for name in ("started", "ended"):
            stored[name] = datetime.fromisoformat(stored[name])
        return Setup(promises=Promises(**promises), **stored)
    except FileNotFoundError as error:
        raise UnreadableRunError(f"{folder} has no {RUN}: it is not the folder of a run") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(Setup))
        raise UnreadableRunError(f"{folder / RUN} does not have the fields {known}: {error!r}") from error


def _write_verdict(folder: Path, setup: Setup, history: History, verdict: Verdict, sha256: str) -> None:
    stored = {
        "outcome": outcome(setup, verdict),
        "figures": figures(history, verdict),
        "faults": len(history.faults),
        "violations": [str(violation) for violation in verdict.violations],
        "unknown": list(verdict.unknown),
        "history_sha256": sha256,
    }
    (folder / VERDICT).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
