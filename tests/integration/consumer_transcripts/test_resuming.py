"""Attempt 2 goes on where attempt 1 was cut off: from its branch, knowing what it did, in the one change.

The attempts are the agent container's program; what the operator does between them are its pure functions.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from coding_agent_core import agenttask
from coding_agent_core.agenttask import AgentTask, OutcomeType, Status
from coding_agent_core.attempts import ENVIRONMENT_VARIABLE
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.settings.attempts import ContextStorage
from coding_agent_core.settings.job import JobTemplate
from coding_agent_core.settings.operator import Policy
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger
from coding_agent_model.script import Failure, Script, Turn
from coding_agent_operator.job import attempt_input, build_job, with_transcript_annotations
from coding_agent_operator.observed import job_name, read_job, read_pod
from coding_agent_operator.task_state import TaskState, task_state

from tests.fixtures.preloaded import start_main
from tests.fixtures.s3 import SECRET, S3Server
from tests.fixtures.system import BOT, BOT_TOKEN, MODEL_KEY, REPOSITORY, StartSystem, System
from tests.integration.main_job.scripts import finish, run, write

NOW = datetime.now(UTC)
PRICES = {"scripted": {"input": "2.50", "output": "10"}}
DOWN = Turn(error=Failure(status=503, times=0))
SCRIPTS = [
    Script(match="An earlier attempt", turns=(run("echo b >> a.md"), finish("Went on."))),
    Script(turns=(write("a.md", "a\n"), DOWN, finish())),
]


def the_task(system: System, status: Status | None = None) -> AgentTask:
    gitlab = system.flavour == "gitlab"
    if ("labeled", BOT) not in system.label_history(1):
        system.put_label(1)
    item = Item(
        platform=Platform(system.flavour),
        host=urlsplit(system.forge.base_url).netloc,
        repository=REPOSITORY,
        kind=ItemKind.ISSUE,
        number=1,
        project_id=system.forge.repository(REPOSITORY).id if gitlab else None,
    )
    request = TaskRequest(item=item, user="alice", trigger=Trigger(origin=Origin.WEBHOOK, received_at=NOW))
    body = agenttask.manifest(request, run=1, timeout_seconds=120, max_attempts=3)
    body["metadata"] |= {"uid": "uid-1", "resourceVersion": "1", "creationTimestamp": NOW.isoformat()}
    if status is not None:
        body["status"] = status.to_wire()
    return AgentTask.of(body)


def attempt(system: System, task: AgentTask, number: int, storage: dict[str, Any]) -> TaskState:
    """Run one attempt as its Job's pod would, and take in what the operator then sees."""
    config = system.folder / "config.yaml"
    settings = system._config() | {"context_storage": storage}
    settings["llm"] |= {"prices": PRICES, "max_retries": 0}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    last_words = system.folder / f"termination-log-{number}"
    last_words.touch()
    with tempfile.TemporaryDirectory(prefix="pod-") as scratch:  # a test's own path is long for a socket
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": scratch,
            "TMPDIR": scratch,
            "TERMINATION_LOG": str(last_words),
            "GITHUB_PERSONAL_ACCESS_TOKEN": BOT_TOKEN,
            "GITLAB_PERSONAL_ACCESS_TOKEN": BOT_TOKEN,
            "OPENAI_API_KEY": MODEL_KEY,
            ENVIRONMENT_VARIABLE: attempt_input(task, number).to_json(),
        }
        arguments = ("--config", str(config), "--mode", "attempt")
        log = system.folder / f"attempt-{number}.log"
        status = start_main(arguments, env=environment, cwd=Path(scratch), log=log).wait(120)
    written = log.read_text() + last_words.read_text()
    for secret in (BOT_TOKEN, MODEL_KEY, SECRET):
        assert secret not in written
    kept = ContextStorage.model_validate(storage)
    manifest = with_transcript_annotations(build_job(task, number, JobTemplate()), task, number, kept)
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    good = {"type": "Complete", "status": "True"}
    job = read_job(
        {
            **manifest,
            "metadata": {**manifest["metadata"], "uid": "j", "resourceVersion": "1"},
            "status": {"conditions": [failed if status else good]},
        }
    )
    ended = {"exitCode": status, "reason": "Error", "message": last_words.read_text()}
    pod = read_pod(
        {
            "metadata": {"name": "p"},
            "status": {
                "phase": "Failed" if status else "Succeeded",
                "containerStatuses": [{"name": "agent", "state": {"terminated": ended}}],
            },
        }
    )
    state = task_state(task, [replace(job, pods=(pod,))], NOW, Policy())
    assert state.attempts[-1].job == job_name(task.name, number), written
    return state


def first_words(request: dict[str, Any]) -> str:
    """What the model is told first."""
    return str(next(message["content"] for message in request["messages"] if message["role"] == "user"))


def test_the_next_attempt_goes_on_and_opens_the_one_change(start_system: StartSystem, s3: S3Server) -> None:
    system = start_system("gitlab", SCRIPTS)
    bucket = {"base_dir": "contexts", "s3": s3.settings(), "link": "https://logs.example/{key}"}
    first = attempt(system, the_task(system), 1, bucket)
    ended = first.attempts[0]
    assert (ended.reason, "called write_file" in (ended.tail or "")) == ("ModelUnavailable", True), ended
    key = (ended.transcript_url or "").removeprefix("https://logs.example/")
    assert b"write_file" in (s3.read(key) or b"")
    assert system.file_at("coding-agent/issue-1", "a.md") == "a\n", "what it had is pushed"
    assert system.changes() == []

    # Without a store, what the status tells is enough.
    before = len(system.model.requests)
    known = Status(attempts=first.attempts, result=first.result)
    second = attempt(system, the_task(system, known), 2, {"base_dir": "contexts"})
    told = first_words(system.model.requests[before])
    assert "Attempt 1 ended: " in told
    assert "called write_file" in told
    assert second.attempts[1].outcome is OutcomeType.SUCCEEDED
    assert second.attempts[1].transcript is None, "the pod's folder is gone with it"
    [change] = system.changes()
    assert system.file_at(change.head, "a.md") == "a\nb\n"
    assert second.result is not None
    assert second.result.change_url is not None
    usages = [one.usage for one in (*second.attempts, second.result)]
    assert [usage.requests if usage else 0 for usage in usages] == [1, 2, 3]
    assert all(usage and usage.cost and float(usage.cost.amount) for usage in usages), "failed ones cost too"

    # A pod in place of one that was lost after it had opened the change: the bucket tells it.
    before = len(system.model.requests)
    again = attempt(system, the_task(system, Status(result=first.result)), 2, bucket)
    assert "called write_file" in first_words(system.model.requests[before])
    assert again.attempts[-1].outcome is OutcomeType.SUCCEEDED
    assert len(system.changes()) == 1, "never a second one"
