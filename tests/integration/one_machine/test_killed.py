"""One process over a file of tasks: `kill -9` and a new start lose nothing and double nothing."""

import json
import os
import random
import signal
import threading

import pytest
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from main import main
from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System
from tests.integration.main_job.scripts import finish, fixes_the_bug, run, script, write

CONTINUED = Script(match="An earlier attempt", turns=(write("b.md", "b\n"), finish("Took its time.")))


def at_work(system: System, requests: int = 2) -> None:
    until("the agent is in mid-task", lambda: len(system.model.requests) >= requests)


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_labeled_issue_becomes_a_change(start_system: StartSystem, flavour: str) -> None:
    system = start_system(flavour, fixes_the_bug(), queue={"backend": "sqlite"})
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    assert [event for event in system.label_history(1) if event[1] in (BOT, PROCESSING, DONE)] == [
        *[("labeled", BOT), ("labeled", PROCESSING), ("unlabeled", BOT)],
        *[("labeled", DONE), ("unlabeled", PROCESSING)],
    ]
    [comment], [change] = system.comments(1), system.changes()
    assert "attempt 1 of 3" in comment.body
    assert system.git("diff", "--name-only", "main", change.head).split() == ["pricing/discount.py"]


def test_an_attempt_outlives_the_process_and_the_next_one_shows_its_end(start_system: StartSystem) -> None:
    slow = script(write("a.md", "a\n"), run("sleep 3"), finish("Took its time."))
    system = start_system("github", [CONTINUED, *slow], queue={"backend": "sqlite"})
    first = system.start_webhook()
    system.put_label(1)
    at_work(system)
    first.kill()
    until("the attempt goes on without the process, and opens the change", system.changes)
    assert DONE not in system.labels(1), "nobody shows it yet"
    system.start("--mode", "webhook")
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "attempt 1 of 3" in comment.body
    assert len(system.changes()) == 1
    assert len(system.model.requests) == 3, "the attempt did not start a second time"


def test_a_stop_waits_for_the_comment_that_a_slow_forge_is_about_to_store(start_system: StartSystem) -> None:
    system = start_system("github", fixes_the_bug(), queue={"backend": "sqlite"})
    slow = system.forge.fault(method="POST", path=".*/issues/1/comments", delay_ms=4000)
    first = system.start_webhook()
    system.put_label(1)
    until("the comment is under way", lambda: slow.hits)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 0
    system.start("--mode", "webhook")
    system.wait_for_label(1, DONE)
    [_] = system.comments(1)


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_moments_lose_nothing_and_double_nothing(
    start_system: StartSystem, seed: int
) -> None:
    chance = random.Random(seed)
    slow = script(write("a.md", "a\n"), run("sleep 2"), finish("Took its time."))
    system = start_system("gitlab", [CONTINUED, *slow], queue={"backend": "sqlite"})
    program = system.start_webhook()
    system.put_label(1)
    for _ in range(6):
        threading.Event().wait(chance.uniform(0, 1.5))  # the moment of the kill is what differs
        program.kill()
        program = system.start("--mode", "webhook")
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "attempt 1 of 3" in comment.body, "no kill of the program ended the attempt"
    assert "-r2" not in comment.body
    assert len(system.changes()) == 1
    assert len(system.model.requests) == 3, "one attempt of three requests"


def test_a_killed_attempt_is_followed_by_the_next_one(start_system: StartSystem) -> None:
    slow = script(write("a.md", "a\n"), run("sleep 600"), finish())
    system = start_system("github", [CONTINUED, *slow], queue={"backend": "sqlite"})
    system.start_webhook()
    system.put_label(1)
    at_work(system)
    [record] = (system.folder / "contexts" / "attempts").glob("*/process")
    os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    system.wait_for_label(1, DONE)
    assert "attempt 2 of 3" in system.comments(1)[0].body
    assert len(system.changes()) == 1


def test_a_second_process_ends_and_says_why(start_system: StartSystem) -> None:
    system = start_system("github", fixes_the_bug(), queue={"backend": "sqlite"})
    system.start_webhook()
    second = system.start("--mode", "webhook")
    assert second.process.wait(60) == 75
    assert "another process works on the same tasks" in second.text()


def test_tasks_are_shown_cancelled_and_retried(
    start_system: StartSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    # Once the first run has ended, the model answers at once.
    quick = Script(match="An earlier attempt|half.md", turns=(finish("Took its time."),))
    system = start_system(
        "gitlab",
        [quick, *script(write("half.md", "half\n"), run("sleep 600"), finish())],
        queue={"backend": "sqlite"},
    )
    program = system.start_webhook()
    system.put_label(1)
    at_work(system)

    def tasks(*arguments: str) -> str:
        assert main(["--config", str(system.folder / "config.yaml"), "tasks", *arguments]) == 0
        return capsys.readouterr().out

    _, row = tasks("list").splitlines()
    name = row.split()[0]
    assert REPOSITORY in row
    assert "running" in tasks("describe", name)
    assert "being cancelled" in tasks("cancel", name)
    text = system.wait_for_comment(1, "Coding agent: cancelled")
    assert "half" in system.file_at("coding-agent/issue-1", "half.md"), text
    # The end is in the file before the item shows it, or right after.
    until("the task has ended", lambda: "Cancelled" in tasks("list"))
    assert "created" in tasks("retry", name)
    assert "-r2" in tasks("list"), program.text()
    system.wait_for_comment(1, "-r2")
