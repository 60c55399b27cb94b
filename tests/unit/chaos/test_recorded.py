"""Runs that are published with their raw history: the judge still says the same of them, and finds changes.

Each change makes one act of the system impossible: it happens in another repository, on another item, long
after everything has ended, or by nobody's request.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_docs.paths import DOCS

from tests.chaos.judging import HISTORY, VERDICT, read_records, read_setup, verdict_of
from tests.chaos.publishing import RUNS, SUFFIX, unpack

Records = list[dict[str, Any]]


def _kept() -> Iterator[tuple[Path, str]]:
    """The archives with the names of their runs that have a raw history."""
    for archive in sorted((DOCS / RUNS).glob(f"*{SUFFIX}")):
        with tarfile.open(archive, "r:xz") as tar:
            names = tar.getnames()
        yield from ((archive, name.rpartition("/")[0]) for name in sorted(names) if name.endswith(HISTORY))


KEPT = list(_kept())
assert KEPT, "no published run has its raw history"


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A published run, out of its archive."""
    archive, name = request.param
    (found,) = (run for run in unpack(archive, tmp_path) if run.name == name)
    return found


@pytest.mark.parametrize("folder", KEPT, ids=lambda kept: kept[1], indirect=True)
def test_a_published_history_is_the_one_that_was_judged(folder: Path) -> None:
    stored = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
    sha256 = hashlib.sha256((folder / HISTORY).read_bytes()).hexdigest()
    assert sha256 == stored["history_sha256"]
    assert f"| SHA-256 of the history | {sha256} |" in (folder / "report.md").read_text(encoding="utf-8")
    verdict = verdict_of(read_setup(folder), read_records(folder))
    assert [str(violation) for violation in verdict.violations] == stored["violations"]


def _in_another_repository(act: dict[str, Any], records: Records) -> None:
    others = {one["repository"] for one in records if one["record"] == "forge"} - {act["repository"]}
    act["repository"] = min(others)


def _on_an_item_that_is_not_there(act: dict[str, Any], records: Records) -> None:
    act["number"] = 99


def _long_after_everything(act: dict[str, Any], records: Records) -> None:
    last = max(datetime.fromisoformat(one["at"]) for one in records if one["record"] == "forge")
    records.append({**act, "at": (last + timedelta(seconds=30)).isoformat()})


def _to_main(act: dict[str, Any], records: Records) -> None:
    act["branch"] = "main"


def _without_its_cause(act: dict[str, Any], records: Records) -> None:
    """Nobody has applied a label, nor given a command."""
    records[:] = [
        one
        for one in records
        if one["record"] != "forge" or one["actor"] == act["actor"] or one["event"] in ("opened", "pushed")
    ]


CHANGES: Sequence[tuple[Callable[[dict[str, Any], Records], None], frozenset[str]]] = (
    (
        _in_another_repository,
        frozenset({"labeled", "unlabeled", "commented", "comment_edited", "pushed", "opened"}),
    ),
    (_on_an_item_that_is_not_there, frozenset({"labeled", "unlabeled", "commented", "comment_edited"})),
    (_long_after_everything, frozenset({"pushed", "opened"})),
    (_to_main, frozenset({"pushed", "opened"})),
    (_without_its_cause, frozenset({"commented"})),
)


def _cases() -> Iterator[Any]:
    for kept in KEPT:
        for change, events in CHANGES:
            yield pytest.param(kept, change, events, id=f"{kept[1]} {change.__name__}")


@pytest.mark.parametrize(("folder", "change", "events"), list(_cases()), indirect=["folder"])
def test_an_act_that_nothing_explains_is_found(
    folder: Path, change: Callable[[dict[str, Any], Records], None], events: frozenset[str]
) -> None:
    setup, records = read_setup(folder), read_records(folder)
    before = verdict_of(setup, records).violations
    acts = [one for one in records if one["record"] == "forge" and one["actor"] == setup.promises.bot]
    tried = 0
    for place, act in enumerate(acts):
        if act["event"] not in events:
            continue
        tried += 1
        changed = json.loads(json.dumps(records))
        same = [one for one in changed if one["record"] == "forge" and one["actor"] == setup.promises.bot]
        change(same[place], changed)
        found = verdict_of(setup, changed).violations
        assert len(found) > len(before), act
    assert tried
