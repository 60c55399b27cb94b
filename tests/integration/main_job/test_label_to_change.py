"""The main job end to end in one process: label in, pull or merge request out."""

import subprocess
from pathlib import Path

import pytest
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Call, Script, Turn
from coding_agent_testbed.model.server import ModelServer
from coding_agent_testbed.until import until

from tests.chart.edge import certificate
from tests.fixtures.forge import client
from tests.fixtures.system import (
    BOT,
    BOT_TOKEN,
    DONE,
    MODEL_KEY,
    PROCESSING,
    REPOSITORY,
    SECRET,
    StartSystem,
    System,
    sample_repository,
)
from tests.integration.main_job.changes import open_change
from tests.integration.main_job.scripts import finish, fixes_the_bug, run, script


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_labeled_issue_becomes_a_change(start_system: StartSystem, flavour: str, tmp_path: Path) -> None:
    system = start_system(flavour, fixes_the_bug())
    program = system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)

    assert [event for event in system.label_history(1) if event[1] in (BOT, PROCESSING, DONE)] == [
        *[("labeled", BOT), ("labeled", PROCESSING), ("unlabeled", BOT)],
        *[("labeled", DONE), ("unlabeled", PROCESSING)],
    ], "a label is added before the one it replaces is removed"
    assert "bug" in system.labels(1), "labels of people stay"

    [comment], [change] = system.comments(1), system.changes()
    assert "Coding agent: done" in comment.body
    assert "attempt 1 of 3" in comment.body
    assert change.author.login == "coding-agent-bot"
    assert (change.head, change.base) == ("coding-agent/issue-1", "main")
    noun = "Pull request" if flavour == "github" else "Merge request"
    assert f"{noun}: {system.forge.base_url}/" in comment.body, "the comment links the change"
    assert f"/{change.number}\n" in comment.body
    assert "#1" in change.body, "the change names its issue"

    clone, path = tmp_path / "clone", str(system.forge.repository(REPOSITORY).path)
    subprocess.run(["git", "clone", "-q", "-b", change.head, path, str(clone)], check=True, timeout=60)
    tests = subprocess.run(["python3", "-m", "unittest"], cwd=clone, timeout=60, check=False)
    assert tests.returncode == 0, "the repository's own tests pass on the branch"
    assert system.git("diff", "--name-only", "main", change.head).split() == ["pricing/discount.py"]

    account, person = system.forge.user("coding-agent-bot"), system.forge.user("alice")
    private = f"{account.id}+coding-agent-bot@users.noreply.127.0.0.1"
    email, asked = {
        "github": (private, f"{person.id}+alice"),
        "gitlab": ("coding-agent-bot@localhost", f"{person.id}-alice"),
    }[flavour]
    format_ = "--format=%an <%ae>%n%cn <%ce>%n%s%n%(trailers)"
    assert system.git("log", "-1", format_, change.head).splitlines() == [
        *[f"coding-agent-bot <{email}>"] * 2,
        "The bulk discount now starts at the step itself",
        *[f"Co-authored-by: alice <{asked}@users.noreply.127.0.0.1>", ""],
    ], "the account, and the person who asked"

    everything = program.text() + comment.body + change.body
    assert [secret for secret in (BOT_TOKEN, SECRET, MODEL_KEY) if secret in everything] == []
    assert program.terminate() == 0


def test_polling_alone_does_the_same_for_as_many_tasks_at_a_time_as_configured(
    start_system: StartSystem, tmp_path: Path
) -> None:
    """`main.py` without a mode: producer, then consumer; it ends when everything found is done."""
    gates = tmp_path / "gates"
    gates.mkdir(mode=0o777)
    meets = run(f"cd {gates}; mktemp -p .; until [ $(ls | wc -l) -ge 2 ]; do sleep 0.1; done")
    consumer = {"concurrency": 2, "workspace": {"isolation": "none"}}
    system = start_system("gitlab", script(meets, run("echo a > a.md"), finish()), consumer=consumer)
    second = system.forge.open_issue(REPOSITORY, "Another one")
    system.put_label(1)
    system.put_label(second)
    program = system.start()
    assert program.process.wait(150) == 0, program.text()
    branches = {f"coding-agent/issue-{number}" for number in (1, second)}
    assert {change.head for change in system.changes()} == branches
    assert "recovered by poll" in program.text()


def test_the_label_put_on_again_goes_on_in_the_same_change_with_what_people_said(
    start_system: StartSystem, tmp_path: Path
) -> None:
    key, signers = tmp_path / "key", tmp_path / "allowed_signers"
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(generate, check=True, timeout=60)
    signers.write_text(f"robots@example.com {key.with_suffix('.pub').read_text()}")
    commits = {"name": "Robots", "email": "robots@example.com", "signing_key": str(key)}
    turns = (run("echo more >> notes.md && wc -l notes.md"), finish())
    system = start_system("github", script(*turns), consumer={"commits": commits})
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    system.forge.comment(REPOSITORY, 1, "Please keep the wording of the error.", by="alice")
    system.put_label(1)
    system.wait_for_comment(1, "-r2`")
    system.wait_for_label(1, DONE)
    [change] = system.changes()
    assert system.file_at(change.head, "notes.md") == "more\nmore\n", "one change per issue"
    assert len([one for one in system.comments(1) if one.author.login == "coding-agent-bot"]) == 1
    asked = str(system.model.requests[-1])
    assert "Please keep the wording of the error." in asked
    assert "Coding agent: working on it" not in asked, "our own comment is no part of the conversation"
    verify = ("-c", f"gpg.ssh.allowedSignersFile={signers}", "log", "-1", "--format=%G? %GS %an <%ae>")
    assert system.git(*verify, change.head).strip() == "G robots@example.com Robots <robots@example.com>"
    until("the labels are swapped", lambda: PROCESSING not in system.labels(1))


def test_github_makes_and_signs_the_commit_of_the_change(start_system: StartSystem) -> None:
    system = start_system("github", fixes_the_bug(), consumer={"commits": {"sign": "github"}})
    port = system.start("--mode", "webhook", GITLAB_PERSONAL_ACCESS_TOKEN="").port()
    system.forge.add_hook(REPOSITORY, f"http://127.0.0.1:{port}/webhook/github", SECRET)
    system.put_label(1)
    system.wait_for_label(1, DONE)
    [change] = system.changes()
    with client(system.forge, BOT_TOKEN) as api:
        commit = api.get(f"/repos/{REPOSITORY}/branches/{change.head}").json()["commit"]["commit"]
    assert commit["verification"]["verified"]
    assert (commit["author"]["name"], commit["committer"]["name"]) == ("coding-agent-bot", "GitHub")
    assert commit["message"].startswith("The bulk discount now starts at the step itself\n")
    assert "\nCo-authored-by: alice <" in commit["message"]
    assert system.git("diff", "--name-only", "main", change.head).split() == ["pricing/discount.py"]


@pytest.mark.long
def test_it_is_trusted_where_ssl_cert_file_says_so(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "IP:127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_text(authority.read_text() + authority.with_name("tls.key").read_text())
    with (
        ForgeServer("github", sample_repository(), tmp_path / "repositories", certificate=both) as forge,
        ModelServer(fixes_the_bug(), api_key=MODEL_KEY) as model,
    ):
        system = System(forge, model, tmp_path)
        try:
            port = system.start("--mode", "webhook", SSL_CERT_FILE=str(authority)).port()
            forge.add_hook(REPOSITORY, f"http://127.0.0.1:{port}/webhook/github", SECRET)
            system.put_label(1)
            until("the label", lambda: DONE in system.labels(1), timeout=180)
        finally:
            system.close()
        [change] = system.changes()
        assert change.head == "coding-agent/issue-1"


NUMBERED = "".join(f"line {number}\n" for number in range(1, 21))
COMMENT = "Replace it with `a dozen`, please."
DOES_AS_THE_COMMENT_SAYS = Script(
    match=(
        r"thread on (?P<path>\S+), line (?P<line>\d+), not resolved\n"
        r"(?:.*\n)*?.* UTC:\nReplace it with `(?P<text>[^`]+)`"
    ),
    turns=(
        Turn(
            calls=(Call(tool="run_command", arguments={"command": "sed -i '${line}s/.*/${text}/' ${path}"}),)
        ),
        finish("Line ${line} of ${path} says ${text} now."),
    ),
)


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_review_comment_on_line_12_changes_line_12(start_system: StartSystem, flavour: str) -> None:
    system = start_system(flavour, [DOES_AS_THE_COMMENT_SAYS])
    number = open_change(system, {"numbers.txt": NUMBERED})
    system.forge.start_thread(REPOSITORY, number, COMMENT, path="numbers.txt", line=12)
    system.start_webhook()
    system.put_label(number, Kind.CHANGE)
    system.wait_for_label(number, DONE, Kind.CHANGE)
    assert system.file_at("feature", "numbers.txt") == NUMBERED.replace("line 12\n", "a dozen\n")
    assert len(system.changes()) == 1, "it is worked on in its own branch: no second change is opened"
    assert "Line 12 of numbers.txt says a dozen now." in system.comments(number, Kind.CHANGE)[0].body
