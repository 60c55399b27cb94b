"""`.coding-agent.yaml` on the default branch: what an attempt does with it, in a real clone and workspace."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.agent_interface import Agent
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.item.background import (
    ProjectCommit,
    pod_environment,
    read_environment,
    read_file,
    set_up,
)
from coding_agent_consumer.repository.clone import BareClone, TreeEntry
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_core.runtime.retry import Clock, Deadline
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.environment import Environment, EnvironmentFileError, RepositoryFile
from coding_agent_core.task.reasons import Reason, ReasonClass
from coding_agent_core.task.runners import RunnerName
from coding_agent_testbed.forge.model import Role
from coding_agent_testbed.until import until

from tests.fixtures.forge import commit
from tests.fixtures.system import MODEL_KEY, REPOSITORY
from tests.fixtures.workspace import FolderWorkspace
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.changes import push
from tests.integration.main_job.scripts import finish, run, script, write

FILE = ".coding-agent.yaml"
FIRST = "coding-agent/issue-1"
IMAGE = "registry.example.com/team/tools:1"
DATABASE = "{image: registry.example.com/db:1, port: 5432}"
ALLOWED = {
    "runners": ["codex"],
    "images": ["registry.example.com/team/*"],
    "service_images": ["registry.example.com/*"],
}
EGRESS = {"presets": {"node": ["packages.example.com"]}}
IN_A_POD = Environment()
WORKS = script(write("a.md", "a\n"), run("cat said.txt"), finish())


async def test_setup_runs_in_order_before_the_agent_and_ignored_files_stay_out_of_the_change(
    make_place: MakePlace,
) -> None:
    place = make_place("github", WORKS)
    commands = (
        "setup: [echo one > said.txt, 'cat said.txt > made.txt; echo two >> said.txt', test -s made.txt]"
    )
    push(place.system, {FILE: commands, ".gitignore": "said.txt\nmade.txt\n"})
    outcome = await place.run(place.given())
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "The 3 setup commands of `.coding-agent.yaml` have run." in asked(place)
    assert "one\\ntwo" in str(place.system.model.requests[2]["messages"][-1])
    assert (place.workspace.root / "tree" / "made.txt").read_text() == "one\n"
    assert set(tree(place, FIRST)) == {"a.md", *tree(place, "main")}


async def test_a_setup_command_that_fails_is_told_to_the_model_without_secrets(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    # The shown end of the output, and of the command, starts and stops within a key.
    long = f"true {'x' * 185} {MODEL_KEY}; printf %s {MODEL_KEY}; head -c 7993 /dev/zero | tr '\\0' z; exit 3"
    commands = "\n".join(f"- {command!r}" for command in ("true", long, "echo late > said.txt"))
    push(place.system, {FILE: f"setup:\n{commands}\n"})
    outcome = await place.run(place.given())
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "Setup command 2 of 3 of `.coding-agent.yaml` ended with exit code 3" in asked(place)
    assert "zzzz\\n" in asked(place), "the end of its output"
    for part in (MODEL_KEY[:8], MODEL_KEY[-6:]):
        assert part not in asked(place)
    assert "late" not in str(place.system.model.requests[2]["messages"][-1]), "the rest did not run"


async def test_a_setup_command_that_takes_too_long_is_told_to_the_model(tmp_path: Path) -> None:
    file = RepositoryFile(setup=("sleep 600", "echo late"))
    told = await set_up(FolderWorkspace(tmp_path), file, Deadline.after(1, Clock()), Scrub([]))
    assert "Setup command 1 of 2 of `.coding-agent.yaml` ran out of time" in told


async def test_a_stop_ends_setup(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "setup: [touch begun.txt; sleep 600]"})
    stop = asyncio.Event()
    attempt = asyncio.create_task(place.run(place.given(timeout=600), stop=stop, grace=100))

    def begun() -> bool:
        return (place.workspace.root / "tree" / "begun.txt").exists()

    await asyncio.to_thread(until, "setup has begun", begun)
    stop.set()
    async with asyncio.timeout(100):  # the grace time
        outcome = await attempt
    assert outcome.reason is Reason.CANCELLED
    assert place.system.model.requests == []


HOSTILE = f"image: {IMAGE}\nrunner: codex\nsetup: [echo hostile > said.txt]\n"


@pytest.mark.parametrize(
    ("flavour", "protected", "counts"), [("github", (), "main"), ("gitlab", ("attic",), "attic")]
)
async def test_which_branch_decides_environment_and_instructions_of_a_change(
    make_place: MakePlace, flavour: str, protected: tuple[str, ...], counts: str
) -> None:
    base = "attic"
    place = make_place(flavour, WORKS)
    path = place.system.forge.repository(REPOSITORY).path
    for branch in ("main", base):
        said = f"setup: [echo by {branch} > said.txt]"
        commit(path, branch, {FILE: said, "AGENTS.md": f"Instructed by {branch}."})
    hostile = {FILE: HOSTILE, "AGENTS.md": "Instructed by the change.", ".gitignore": "said.txt\n"}
    commit(path, "feature", hostile)
    place.system.forge.protect(REPOSITORY, *protected)
    number = place.system.forge.open_change(REPOSITORY, "feature", base)
    outcome = await place.run(place.given_change(number), repository_environment=ALLOWED)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    told = str(place.system.model.requests[2]["messages"])
    for what in ("by", "Instructed by"):
        assert f"{what} {counts}" in told
    assert "hostile" not in told
    for other in {"main", base, "the change"} - {counts}:
        assert f"Instructed by {other}" not in told
    assert place.system.file_at("feature", FILE) == HOSTILE, "it worked on the change's branch"


async def test_a_forks_file_does_not_count(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "setup: [echo base > said.txt]"})
    fork = place.system.forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "feature", {FILE: HOSTILE, ".gitignore": "said.txt\n"})
    number = place.system.forge.open_change(REPOSITORY, "feature", "main", source=fork)
    outcome = await place.run(place.given_change(number), repository_environment=ALLOWED)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    told = str(place.system.model.requests[2]["messages"][-1])
    assert "base" in told
    assert "hostile" not in told
    assert place.system.git("--git-dir", str(fork.path), "show", "feature:a.md") == "a\n"


async def test_a_file_that_is_not_allowed_fails_the_task_in_a_sentence(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "image: evil.example.com/team/tools:1"})
    outcome = await place.run(place.given(), repository_environment=ALLOWED)
    assert (outcome.reason, outcome.exit_code) == (Reason.ENVIRONMENT_REFUSED, 78), outcome.message
    assert outcome.outcome_class is ReasonClass.PERMANENT
    assert outcome.message.startswith(f"`{FILE}`, `image`: evil.example.com/team/tools:1 is not allowed")
    assert outcome.message.endswith("The file is on the branch `main`.")
    assert (place.system.model.requests, FIRST in place.branches()) == ([], False)


async def test_only_the_named_folders_are_checked_out_and_nothing_else_is_lost(make_place: MakePlace) -> None:
    files = {
        "README.md": "r\n",
        "services/common.md": "c\n",
        "services/billing/deep/a.md": "a\n",
        "services/mail/b.md": "b\n",
        "libs/c.md": "c\n",
    }
    turns = (
        run("git ls-files -t | sort; git status --short; cat README.md services/common.md"),
        run("git sparse-checkout add libs && echo changed > libs/c.md"),
        run("rm services/billing/deep/a.md; mkdir -p services/mail docs; echo n > docs/n.md"),
        run("echo changed > services/mail/b.md; git show HEAD:services/mail/b.md"),
        finish(),
    )
    place = make_place("github", script(*turns))
    push(place.system, {**files, FILE: "checkout: [services/billing]\n"})
    outcome = await place.run(place.given())
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "services/billing" in asked(place)
    listed = str(place.system.model.requests[1]["messages"][-1])
    for shown in (
        "H services/billing/deep/a.md",
        "H services/common.md",
        "S services/mail/b.md",
        "S libs/c.md",
    ):
        assert shown in listed, listed
    assert " D " not in listed, "git status shows nothing"
    changed = place.system.git("diff", "--name-status", "--no-renames", "main", FIRST).split("\n")
    assert set(filter(None, changed)) == {
        "D\tservices/billing/deep/a.md",
        "M\tservices/mail/b.md",
        "M\tlibs/c.md",
        "A\tdocs/n.md",
    }


class Commit(BareClone):
    """A commit with one entry."""

    def __init__(self, path: str, content: bytes, mode: str) -> None:
        self._entry, self._content = TreeEntry(mode, "id", path), content

    async def root(self, commit: str) -> list[TreeEntry]:
        return [self._entry]

    async def missing_folders(self, commit: str, folders: Sequence[str]) -> list[str]:
        return [folder for folder in folders if folder != "there"]

    async def blob(self, id_: str, limit: int) -> bytes | None:
        return self._content if len(self._content) <= limit else None


async def read(
    content: str, path: str = FILE, mode: str = "100644", pod: Environment | None = IN_A_POD, **sections: Any
) -> RepositoryFile:
    settings = Settings.model_validate({"repository_environment": ALLOWED, "egress": EGRESS, **sections})
    commit = Commit(path, content.encode(), mode)
    return await read_environment(commit, ProjectCommit("main", "tip"), settings, pod)


@pytest.mark.parametrize(
    ("content", "more", "told"),
    [
        (f"services: {{db: {DATABASE}}}", {"repository_environment": {}}, "`services.db.image`"),
        ("runner: gemini", {}, "`repository_environment.runners`"),
        ("egress: [ruby]", {}, "`egress`: there is no preset 'ruby'"),
        ("setup: ['true']", {"repository_environment": {"setup": False}}, "`repository_environment.setup`"),
        (f"# {'x' * 64 * 1024}", {}, "has more than 64 KiB"),
        ("", {"path": ".coding-agent.yml"}, "rename `.coding-agent.yml`"),
        ("", {"mode": "040000"}, "is not a regular file"),
        ("checkout: [there, gone]", {}, "`checkout`: the repository has no folder `gone`"),
        ("target", {"mode": "120000"}, "is not a regular file"),
        ("", {"mode": "160000"}, "is not a regular file"),
        (f"image: {IMAGE}", {"pod": None}, "Remove `image` from the file."),
        (f"services: {{db: {DATABASE}}}", {"pod": None}, "Remove `services` from the file."),
    ],
)
async def test_what_is_refused(content: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises(EnvironmentFileError, match=re.escape(told)):
        await read(content, **more)


async def test_without_a_proxy_presets_need_no_other_pod(caplog: pytest.LogCaptureFixture) -> None:
    file = await read("egress: [node]")
    assert "`egress` has no effect" in caplog.text
    assert pod_environment(file, Settings()) == IN_A_POD


async def test_the_files_runner_counts(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "runner: codex"})
    seen = []

    def make_agent(settings: Settings, gateway: Gateway) -> Agent:
        seen.append(settings.consumer.runner)
        return ModelAgent(settings, gateway)

    outcome = await place.run(
        place.given(),
        make_agent=make_agent,
        repository_environment=ALLOWED,
        consumer={"runner": "opencode", "runners": {REPOSITORY: "command"}, "command": ["true"]},
    )
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert seen == [RunnerName.CODEX]


async def test_another_pod_is_asked_for_before_the_model_is_and_then_it_works(make_place: MakePlace) -> None:
    place = make_place("gitlab", WORKS)
    content = f"image: {IMAGE}\negress: [node]\nservices: {{db: {DATABASE}}}\nsetup: [echo made > said.txt]\n"
    push(place.system, {FILE: content, ".gitignore": "said.txt\n"})
    proxied = {**EGRESS, "proxy": "http://127.0.0.1:9"}
    sections: dict[str, Any] = {"repository_environment": ALLOWED, "egress": proxied}
    before = place.branches()
    outcome = await place.run(place.given(), **sections)
    assert (outcome.reason, outcome.outcome_class) == (Reason.ENVIRONMENT_CHANGED, ReasonClass.RESTARTED)
    assert outcome.environment == read_file(content.encode()).pod
    assert outcome.environment.egress == ("node",)
    assert (place.system.model.requests, place.branches()) == ([], before)
    assert f"image {IMAGE}; service db; preset node" in outcome.message

    left = Outcome.from_termination_message(outcome.to_termination_message())
    assert left is not None
    assert left.environment is not None
    outcome = await place.run(made_with(place.given(attempt=2), left.environment), **sections)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "These services run next to your workspace: db at 127.0.0.1:5432." in asked(place)
    assert set(tree(place, FIRST)) == {"a.md", *tree(place, "main")}


def made_with(given: AttemptInput, environment: Environment) -> AttemptInput:
    """In a pod that was made with this, by way of its variable."""
    text = given.model_copy(update={"environment": environment}).to_json()
    return AttemptInput.from_json(text, now=given.task.request.trigger.received_at)


def asked(place: AttemptPlace) -> str:
    """The first request to the model."""
    return str(place.system.model.requests[0]["messages"])


def tree(place: AttemptPlace, branch: str) -> list[str]:
    return place.system.git("ls-tree", "-r", "--name-only", branch).split()
