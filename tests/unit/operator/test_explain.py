"""What the operator's decision looks like to a person who debugs it."""

import io
import json
from typing import Any

import pytest
from coding_agent_operator.tasks.explain import explain, main

from tests.unit.operator.making import NOW, task_body

NAME = task_body()["metadata"]["name"]


def job_body(**status: Any) -> dict[str, Any]:
    owner = {"kind": "AgentTask", "name": NAME, "uid": "uid-1", "controller": True}
    metadata = {
        "name": f"{NAME}-1",
        "uid": "job-1",
        "creationTimestamp": NOW.isoformat(),
        "ownerReferences": [owner],
    }
    return {"kind": "Job", "metadata": metadata, "status": status}


def test_it_names_the_job_that_comes_next() -> None:
    lines = list(explain([task_body()], NAME, NOW))
    assert lines[:3] == ["stored: no phase, 0 attempts", "stage: ready", "creates the Job of attempt 1"]


def test_it_shows_jobs_and_pods_and_the_status_that_follows() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    pod = {
        "kind": "Pod",
        "metadata": {
            "name": "pod-1",
            "creationTimestamp": NOW.isoformat(),
            "labels": {"batch.kubernetes.io/job-name": f"{NAME}-1"},
        },
        "status": {"phase": "Failed"},
    }
    lines = list(explain([task_body(), job_body(conditions=[failed]), pod], NAME, NOW))
    assert f"Job {NAME}-1: DeadlineExceeded; pod-1 Failed" in lines
    [written] = [line for line in lines if line.startswith("writes the status ")]
    [attempt] = json.loads(written.removeprefix("writes the status "))["attempts"]
    assert (attempt["number"], attempt["outcome"]) == (1, "Disrupted"), "no exit code"


def test_it_reads_what_kubectl_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.dumps({"kind": "List", "items": [task_body()]})
    monkeypatch.setattr("sys.stdin", io.StringIO(found))
    assert main([NAME]) == 0
    assert "creates the Job of attempt 1" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(found))
    assert main(["another"]) == 1
    assert capsys.readouterr().err == f"no AgentTask another among {NAME}\n"
