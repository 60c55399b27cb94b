"""The reader on the page about other systems works: its code judges a history of another system's objects."""

from __future__ import annotations

import json
import lzma
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_docs.blocks import blocks, script
from coding_agent_docs.paths import DOCS

from tests.chaos.judging import CLEAN, VIOLATED
from tests.unit.chaos.tape import Tape, moment

PAGE = DOCS / "testing-another-system.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {}
    for block in blocks(PAGE):
        if block.language == "python":
            exec(compile(script(block), PAGE, "exec"), names)
    return names


class Kelos(Tape):
    """Records of Tasks as the API server answers them; the forge's host is the page's."""

    def task_of(self, number: int, start: float, end: float | None, name: str) -> None:
        """A label, its Task, and its pod."""
        self.forge(start, "labeled", "alice", number, host="127.0.0.1", label="kelos")
        notes = {"kind": "issue", "number": str(number), "owner": "octo", "repo": "demo"}
        annotations = {f"kelos.dev/source-{key}": value for key, value in notes.items()}
        metadata = {"name": name, "annotations": annotations}
        self.audit(start + 1, "tasks", "create", name, {"metadata": metadata, "spec": {"prompt": "Fix it."}})
        labels = {"kelos.dev/task": name}
        self.audit(
            start + 2,
            "pods",
            "create",
            f"{name}-x",
            {"metadata": {"name": f"{name}-x", "labels": labels}},
        )
        moments = [(start + 1.5, "Pending"), (start + 3, "Running")]
        if end is not None:
            self.audit(
                end - 1,
                "pods",
                "patch",
                f"{name}-x",
                {"status": {"phase": "Succeeded"}},
                subresource="status",
            )
            moments.append((end, "Succeeded"))
        for at, phase in moments:
            body = {"metadata": metadata, "status": {"phase": phase}}
            self.audit(at, "tasks", "patch", name, body, subresource="status")


def judged(page: dict[str, Any], folder: Path, tape: Tape) -> int:
    """The exit status of the page's own judgment."""
    ended = moment(600)
    return int(page["judge_kelos"](folder, tape.lines, ended - timedelta(minutes=10), ended))


def test_the_pages_reader_finds_runs_and_pods(page: dict[str, Any], tmp_path: Path) -> None:
    tape = Kelos()
    tape.task_of(7, 10, 40, "spawner-7-a")
    tape.task_of(7, 60, 90, "spawner-7-b")
    tape.audit(100, "tasks", "create", "by-hand", {"metadata": {"name": "by-hand"}, "spec": {}})
    runs = list(page["kelos_runs"](tape.lines))
    assert [(run.name, run.number, run.phase) for run in runs] == [
        ("spawner-7-a", 1, "Succeeded"),
        ("spawner-7-b", 2, "Succeeded"),
    ]
    assert [[pod.name for pod in run.pods] for run in runs] == [["spawner-7-a-x"], ["spawner-7-b-x"]]
    assert judged(page, tmp_path, tape) == CLEAN
    with lzma.open(tmp_path / "history.jsonl.xz", "rt") as lines:
        assert [json.loads(line) for line in lines] == tape.lines


def test_the_pages_judgment_allows_other_comments_and_finds_a_push_to_main(
    page: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = Kelos()
    tape.task_of(7, 10, 40, "spawner-7-a")
    tape.forge(20, "commented", "kelos-bot", 7, host="127.0.0.1", comment=1, body="I am on it.")
    tape.forge(21, "labeled", "kelos-bot", 7, host="127.0.0.1", label="in progress")
    assert judged(page, tmp_path, tape) == CLEAN
    tape.forge(22, "pushed", "kelos-bot", None, host="127.0.0.1", branch="main")
    assert judged(page, tmp_path, tape) == VIOLATED
    assert "pushed main, which is no branch for its work" in capsys.readouterr().out


def test_the_pages_judgment_finds_a_task_that_was_deleted(
    page: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = Kelos()
    tape.task_of(7, 10, None, "spawner-7-a")
    tape.audit(20, "tasks", "delete", "spawner-7-a", {"kind": "Status"})
    tape.task_of(8, 10, None, "spawner-8-a")
    assert judged(page, tmp_path, tape) == VIOLATED
    said = capsys.readouterr().out
    assert "issue 8: run 1 is Running for good" in said
