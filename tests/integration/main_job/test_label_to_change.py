"""The main job end to end, per forge and kind: label in, pull or merge request out (S18-S20, S23, S28)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from coding_agent_forge.model import Kind

from tests.fixtures.system import (
    BOT,
    BOT_TOKEN,
    DONE,
    MODEL_KEY,
    PROCESSING,
    REPOSITORY,
    SECRET,
    StartSystem,
    until,
)
from tests.integration.main_job.changes import open_change
from tests.integration.main_job.scripts import finish, fixes_the_bug, run, script, write

FORGES = ["github", "gitlab"]


@pytest.mark.parametrize("flavour", FORGES)
def test_a_labeled_issue_becomes_a_change(start_system: StartSystem, flavour: str, tmp_path: Path) -> None:
    system = start_system(flavour, fixes_the_bug())
    program = system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)

    history = system.label_history(1)
    assert [event for event in history if event[1] in (BOT, PROCESSING, DONE)] == [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ], "a label is added before the one it replaces is removed"
    assert "bug" in system.labels(1), "labels of people stay"

    [comment] = system.comments(1)
    assert "Coding agent: done" in comment.body
    assert "attempt 1 of 3" in comment.body
    [change] = system.changes()
    assert change.author.login == "coding-agent-bot"
    assert (change.head, change.base) == ("coding-agent/issue-1", "main")
    noun = "Pull request" if flavour == "github" else "Merge request"
    assert f"{noun}: {system.forge.base_url}/" in comment.body, "the comment links the change"
    assert f"/{change.number}\n" in comment.body
    assert "#1" in change.body, "the change names its issue"

    clone = tmp_path / "clone"
    path = str(system.forge.repository(REPOSITORY).path)
    subprocess.run(["git", "clone", "-q", "-b", change.head, path, str(clone)], check=True, timeout=60)
    tests = subprocess.run(
        ["python3", "-m", "unittest"], cwd=clone, capture_output=True, timeout=60, check=False
    )
    assert tests.returncode == 0, "the repository's own tests pass on the branch"
    assert system.git("diff", "--name-only", "main", change.head).split() == ["pricing/discount.py"]

    account, person = system.forge.user("coding-agent-bot"), system.forge.user("alice")
    email, private = (
        (f"{account.id}+coding-agent-bot@users.noreply.127.0.0.1", f"{person.id}+alice")
        if flavour == "github"
        else ("coding-agent-bot@localhost", f"{person.id}-alice")
    )
    assert system.git(
        "log", "-1", "--format=%an <%ae>%n%cn <%ce>%n%(trailers)", change.head
    ).splitlines() == [
        f"coding-agent-bot <{email}>",
        f"coding-agent-bot <{email}>",
        f"Co-authored-by: alice <{private}@users.noreply.127.0.0.1>",
        "",
    ], "the account, and the person who asked"
    subject = system.git("log", "-1", "--format=%s", change.head).strip()
    assert subject == "The bulk discount now starts at the step itself"

    everything = program.text() + comment.body + change.body
    for secret in (BOT_TOKEN, SECRET, MODEL_KEY):
        assert secret not in everything
    assert program.terminate() == 0


@pytest.mark.parametrize("flavour", FORGES)
def test_a_labeled_change_is_worked_on_in_its_own_branch(start_system: StartSystem, flavour: str) -> None:
    system = start_system(flavour, script(write("notes.md", "hello\n"), finish("Added notes.")))
    number = open_change(system)
    system.start_webhook()
    system.put_label(number, Kind.CHANGE)
    system.wait_for_label(number, DONE, Kind.CHANGE)
    assert len(system.changes()) == 1, "no second change is opened"
    assert system.file_at("feature", "notes.md") == "hello\n"
    [comment] = system.comments(number, Kind.CHANGE)
    assert "Added notes." in comment.body


@pytest.mark.parametrize("flavour", FORGES)
def test_polling_alone_does_the_same(start_system: StartSystem, flavour: str) -> None:
    """`main.py` without a mode: producer, then consumer; it ends when everything found is done (S14, S16)."""
    system = start_system(flavour, fixes_the_bug())
    system.put_label(1)
    program = system.start()
    assert program.process.wait(150) == 0, program.text()
    assert DONE in system.labels(1)
    assert len(system.changes()) == 1
    assert "recovered by poll" in program.text()


def test_as_many_tasks_at_a_time_as_configured(start_system: StartSystem) -> None:
    turns = (write("a.md", "a\n"), run("sleep 3"), finish())
    system = start_system("github", script(*turns), consumer={"concurrency": 2})
    second = system.forge.open_issue(REPOSITORY, "Another one")
    system.start_webhook()
    system.put_label(1)
    system.put_label(second)
    until(
        lambda: PROCESSING in system.labels(1) and PROCESSING in system.labels(second),
        "both are worked on at the same time",
    )
    system.wait_for_label(1, DONE)
    system.wait_for_label(second, DONE)
    assert {change.head for change in system.changes()} == {
        "coding-agent/issue-1",
        f"coding-agent/issue-{second}",
    }


def test_nothing_to_change_opens_nothing(start_system: StartSystem) -> None:
    system = start_system("github", script(finish("It works already.", status="nothing_to_change")))
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    assert system.changes() == []
    assert "nothing to change" in system.comments(1)[0].body


def test_the_label_put_on_again_goes_on_in_the_same_change(start_system: StartSystem) -> None:
    turns = (run("echo more >> notes.md && wc -l notes.md"), finish())
    system = start_system("github", script(*turns))
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    system.put_label(1)
    system.wait_for_comment(1, "-r2`")
    system.wait_for_label(1, DONE)
    assert len(system.changes()) == 1, "one change per issue"
    assert system.file_at("coding-agent/issue-1", "notes.md") == "more\nmore\n"
    assert len(system.comments(1)) == 1, "one comment per issue"


def test_comments_of_people_reach_the_model_and_our_own_do_not(start_system: StartSystem) -> None:
    system = start_system("github", script(finish(status="nothing_to_change")))
    system.start_webhook()
    system.forge.comment(REPOSITORY, 1, "Please keep the wording of the error.", by="alice")
    system.put_label(1)
    system.wait_for_label(1, DONE)
    asked = str(system.model.requests[-1])
    assert "Please keep the wording of the error." in asked
    assert "Coding agent: working on it" not in asked


def test_commits_are_signed_and_authored_as_configured(start_system: StartSystem, tmp_path: Path) -> None:
    key = tmp_path / "key"
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(generate, check=True, timeout=60)
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"robots@example.com {key.with_suffix('.pub').read_text()}")
    commits = {"name": "Robots", "email": "robots@example.com", "signing_key": str(key)}
    system = start_system("github", script(write("a.md", "a\n"), finish()), consumer={"commits": commits})
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)

    [change] = system.changes()
    verify = ("-c", f"gpg.ssh.allowedSignersFile={signers}", "log", "-1", "--format=%G? %GS %an <%ae>")
    assert system.git(*verify, change.head).strip() == "G robots@example.com Robots <robots@example.com>"
