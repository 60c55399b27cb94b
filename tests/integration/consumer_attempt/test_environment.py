"""`.coding-agent.yaml` on the default branch: what an attempt does with it, in a real clone and workspace."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.brief import Agent
from coding_agent_consumer.gateway import Gateway
from coding_agent_core.attempts import MAX_MESSAGE_BYTES, AttemptInput, Outcome
from coding_agent_core.environment import MAX_POD_BYTES, Environment, read_file
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reasons import Reason, ReasonClass
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import RunnerName
from coding_agent_forge.model import Role

from tests.fixtures.forge import commit
from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, REPOSITORY, until
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.changes import open_change, push
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
both_forges = pytest.mark.parametrize("flavour", ["github", "gitlab"])
WORKS = script(write("a.md", "a\n"), run("cat said.txt"), finish())


@both_forges
async def test_setup_runs_in_order_before_the_agent_and_ignored_files_stay_out_of_the_change(
    make_place: MakePlace, flavour: str
) -> None:
    place = make_place(flavour, WORKS)
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


async def test_a_setup_command_that_takes_too_long_is_told_to_the_model(make_place: MakePlace) -> None:
    place = make_place("github", script(write("a.md", "a\n"), finish()))
    push(place.system, {FILE: "setup: [sleep 600, echo late]"})
    outcome = await place.run(place.given(timeout=600), consumer={"workspace": {"command_timeout": 1}})
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "Setup command 1 of 2 of `.coding-agent.yaml` ran out of time" in asked(place)


async def test_a_stop_ends_setup(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "setup: [touch begun.txt; sleep 600]"})
    stop = asyncio.Event()
    attempt = asyncio.create_task(place.run(place.given(timeout=600), stop=stop, grace=100))

    def begun() -> bool:
        return (place.workspace.root / "tree" / "begun.txt").exists()

    await asyncio.to_thread(until, begun, "setup has begun")
    stop.set()
    async with asyncio.timeout(100):  # the grace time
        outcome = await attempt
    assert outcome.reason is Reason.CANCELLED
    assert place.system.model.requests == []


HOSTILE = f"image: {IMAGE}\nrunner: codex\nsetup: [echo hostile > said.txt]\n"


@both_forges
@pytest.mark.parametrize(
    ("base", "protected", "counts"),
    [
        ("attic", (), "main"),
        ("attic", ("attic",), "attic"),
        # The agent pushed it, for an issue that anybody may have written.
        (FIRST, ("coding-agent/*",), "main"),
    ],
)
async def test_which_branch_decides_environment_and_instructions_of_a_change(
    make_place: MakePlace, flavour: str, base: str, protected: tuple[str, ...], counts: str
) -> None:
    place = make_place(flavour, WORKS)
    path = place.system.forge.repository(REPOSITORY).path
    for branch in dict.fromkeys(("main", base)):
        said = f"setup: [echo by {branch} > said.txt]"
        commit(path, branch, {FILE: said, "AGENTS.md": f"Instructed by {branch}."})
    hostile = {FILE: HOSTILE, "AGENTS.md": "Instructed by the change.", ".gitignore": "said.txt\n"}
    commit(path, "feature", hostile)
    place.system.forge.protect(REPOSITORY, *protected)
    number = place.system.forge.open_change(REPOSITORY, "feature", base)
    outcome = await place.run(change(place, number), repository_environment=ALLOWED)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    told = str(place.system.model.requests[2]["messages"])
    for what in ("by", "Instructed by"):
        assert f"{what} {counts}" in told
    assert "hostile" not in told
    for other in {"main", base, "the change"} - {counts}:
        assert f"Instructed by {other}" not in told
    assert place.system.file_at("feature", FILE) == HOSTILE, "it worked on the change's branch"


async def test_without_a_file_on_the_default_branch_none_counts(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    number = open_change(place.system, {FILE: HOSTILE, ".gitignore": "said.txt\n"})
    outcome = await place.run(change(place, number), repository_environment=ALLOWED)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "hostile" not in str(place.system.model.requests[2]["messages"][-1])


async def test_a_forks_file_does_not_count(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "setup: [echo base > said.txt]"})
    fork = place.system.forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "feature", {FILE: HOSTILE, ".gitignore": "said.txt\n"})
    number = place.system.forge.open_change(REPOSITORY, "feature", "main", source=fork)
    outcome = await place.run(change(place, number), repository_environment=ALLOWED)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    told = str(place.system.model.requests[2]["messages"][-1])
    assert "base" in told
    assert "hostile" not in told
    assert place.system.git("--git-dir", str(fork.path), "show", "feature:a.md") == "a\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "image: evil.example.com/team/tools:1",
            ("`image`: evil.example.com/team/tools:1 is not allowed", "`repository_environment.images`"),
        ),
        (
            f"services: {{db: {DATABASE.replace('/db', '/a/db')}}}",
            ("`services.db.image`", "`repository_environment.service_images`"),
        ),
        ("runner: gemini", ("`runner`: gemini is not allowed", "`repository_environment.runners`")),
        ("egress: [ruby]", ("`egress`: there is no preset 'ruby'", "`egress.presets`")),
        ("imag: x", ("`imag`: is not a known key",)),
        ("setup: [true]\nimage: [", (f"`{FILE}`, line 2, is not valid YAML",)),
        ('setup: ["echo \\0"]', ("`setup.0`: contains a NUL",)),
        (f"# {'x' * 64 * 1024}\nsetup: ['true']", ("has more than 64 KiB",)),
    ],
)
async def test_a_file_that_is_not_allowed_fails_the_task_in_a_sentence(
    make_place: MakePlace, content: str, told: tuple[str, ...]
) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: content})
    outcome = await place.run(place.given(), repository_environment=ALLOWED, egress=EGRESS)
    is_refused(place, outcome)
    for part in told:
        assert part in outcome.message


async def test_setup_that_is_switched_off_fails_the_task(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "setup: ['true']"})
    outcome = await place.run(place.given(), repository_environment={"setup": False})
    is_refused(place, outcome)
    assert "`setup`: commands are not run here" in outcome.message
    assert "`repository_environment.setup`" in outcome.message


async def test_a_file_of_the_other_spelling_fails_the_task(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    push(place.system, {".coding-agent.yml": "setup: ['true']"})
    outcome = await place.run(place.given())
    is_refused(place, outcome)
    assert "rename `.coding-agent.yml`" in outcome.message
    assert "branch `main`" in outcome.message


@pytest.mark.parametrize("kind", ["link", "submodule", "folder"])
async def test_what_is_not_a_plain_file_fails_the_task(make_place: MakePlace, kind: str) -> None:
    place = make_place("github", WORKS)
    git = place.system.git
    if kind == "folder":
        push(place.system, {f"{FILE}/a.yaml": "setup: ['true']"})
    else:
        push(place.system, {"other.yaml": "setup: ['true']", "target": "other.yaml"})
        mode, name = {"link": ("120000", "main:target"), "submodule": ("160000", "main")}[kind]
        git("read-tree", "main")
        git("update-index", "--add", "--cacheinfo", f"{mode},{git('rev-parse', name).strip()},{FILE}")
        identity = ("-c", "user.name=Alice", "-c", "user.email=a@example.com")
        commit = git(*identity, "commit-tree", "-p", "main", "-m", "A link", git("write-tree").strip())
        git("update-ref", "refs/heads/main", commit.strip())
    outcome = await place.run(place.given())
    is_refused(place, outcome)
    assert f"`{FILE}` is not a regular file" in outcome.message


@pytest.mark.parametrize(
    ("asked_for", "used"), [(None, RunnerName.CODEX), (RunnerName.GEMINI, RunnerName.GEMINI)]
)
async def test_the_files_runner_counts_unless_the_task_names_one(
    make_place: MakePlace, asked_for: RunnerName | None, used: RunnerName
) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "runner: codex"})
    given, seen = place.given(), []
    request = given.task.request.model_copy(update={"runner": asked_for})
    given = given.model_copy(update={"task": given.task.model_copy(update={"request": request})})

    def make_agent(settings: Settings, gateway: Gateway) -> Agent:
        seen.append(settings.consumer.runner)
        return ModelAgent(settings, gateway)

    outcome = await place.run(
        given,
        make_agent=make_agent,
        repository_environment=ALLOWED,
        consumer={"runner": "opencode", "runners": {REPOSITORY: "command"}, "command": ["true"]},
    )
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert seen == [used]


@both_forges
async def test_another_pod_is_asked_for_before_the_model_is_and_then_it_works(
    make_place: MakePlace, flavour: str
) -> None:
    place = make_place(flavour, WORKS)
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


async def test_a_file_that_is_gone_asks_for_the_installations_own_pod(make_place: MakePlace) -> None:
    place = make_place("github", WORKS)
    outcome = await place.run(made_with(place.given(), Environment(image=IMAGE)))
    assert (outcome.reason, outcome.environment) == (Reason.ENVIRONMENT_CHANGED, Environment())
    assert place.system.model.requests == []


async def test_without_a_proxy_presets_need_no_other_pod(
    make_place: MakePlace, caplog: pytest.LogCaptureFixture
) -> None:
    place = make_place("github", WORKS)
    push(place.system, {FILE: "egress: [node]"})
    outcome = await place.run(place.given(), egress=EGRESS)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "`egress` has no effect" in caplog.text


def test_the_program_leaves_the_largest_environment_to_the_operator(
    make_place: MakePlace, tmp_path: Path
) -> None:
    place = make_place("github", WORKS)
    content = largest()
    push(place.system, {FILE: content})
    place.workspace.fresh()
    last_words = tmp_path / "termination-log"
    last_words.touch()
    place.system.sections["repository_environment"] = {
        "images": ["registry.example.com/*"],
        "service_images": ["registry.example.com/*"],
    }
    program = place.system.start(
        *("--mode", "attempt"),
        CODING_AGENT_TASK=place.given().to_json(),
        WORKSPACE_SOCKET=str(place.workspace.socket),
        TERMINATION_LOG=str(last_words),
    )
    assert program.process.wait(60) == 75, program.text()
    assert len(last_words.read_bytes()) <= MAX_MESSAGE_BYTES
    outcome = Outcome.from_termination_message(last_words.read_text())
    assert outcome is not None
    assert outcome.reason is Reason.ENVIRONMENT_CHANGED
    assert outcome.environment == read_file(content.encode()).pod
    assert place.system.model.requests == []
    assert BOT_TOKEN not in program.text() + last_words.read_text()


@both_forges
def test_without_a_pod_image_and_services_are_refused(make_place: MakePlace, flavour: str) -> None:
    place = make_place(flavour, WORKS)
    place.system.sections["repository_environment"] = ALLOWED
    place.system.start_webhook()
    for field, content in (("image", f"image: {IMAGE}"), ("services", f"services: {{db: {DATABASE}}}")):
        push(place.system, {FILE: content})
        place.system.put_label(1)
        comment = place.system.wait_for_comment(1, f"`{field}`: this installation does not run on Kubernetes")
        assert Reason.ENVIRONMENT_REFUSED in comment
        assert f"Remove `{field}` from the file." in comment
        until(lambda: not any("coding agent" in label for label in place.system.labels(1)), "the task ended")
    assert place.system.model.requests == []


def is_refused(place: AttemptPlace, outcome: Outcome) -> None:
    """For good, and nothing was done."""
    assert (outcome.reason, outcome.exit_code) == (Reason.ENVIRONMENT_REFUSED, 78), outcome.message
    assert outcome.outcome_class is ReasonClass.PERMANENT
    assert outcome.message.startswith(f"`{FILE}`")
    assert outcome.message.endswith(".")
    assert (place.system.model.requests, FIRST in place.branches()) == ([], False)


def change(place: AttemptPlace, number: int) -> AttemptInput:
    """What the attempt at a change is given."""
    given = place.given()
    item = place.item.model_copy(update={"kind": ItemKind.CHANGE, "number": number})
    request = given.task.request.model_copy(update={"item": item})
    return given.model_copy(update={"task": given.task.model_copy(update={"request": request})})


def made_with(given: AttemptInput, environment: Environment) -> AttemptInput:
    """In a pod that was made with this, by way of its variable."""
    text = given.model_copy(update={"environment": environment}).to_json()
    return AttemptInput.from_json(text, now=given.task.request.trigger.received_at)


def largest() -> str:
    """A file whose pod has as many bytes as is allowed."""
    image = "image: registry.example.com/"
    values = [f"A{number}: '{chr(0x20AC) * 150}'" for number in range(3)]
    text = (
        f"{image}{'i' * 200}\nservices: {{db: {{image: registry.example.com/db, port: 5432, env: {{%s}}}}}}"
    )
    used = len(read_file((text % ", ".join(values)).encode()).pod.model_dump_json().encode())
    left = MAX_POD_BYTES - used - len(',"B":""')
    values.append(f"B: '{'b' * left}'")
    whole = text % ", ".join(values)
    assert len(read_file(whole.encode()).pod.model_dump_json().encode()) == MAX_POD_BYTES
    return whole


def asked(place: AttemptPlace) -> str:
    """The first request to the model."""
    return str(place.system.model.requests[0]["messages"])


def tree(place: AttemptPlace, branch: str) -> list[str]:
    return place.system.git("ls-tree", "-r", "--name-only", branch).split()
