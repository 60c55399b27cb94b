"""One attempt as its pod runs it: what it does to the forge, and what it tells the operator."""

import asyncio
import base64
from contextlib import suppress
from typing import Any

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.agent_interface import Brief, OnStep, Step
from coding_agent_consumer.attempt import attempt as attempt_program
from coding_agent_consumer.modes import make_agent
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.reporting.comment import Report, State, comment
from coding_agent_core.runtime.retry import run_until
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.forge.model import Item
from coding_agent_testbed.model.script import Script, Turn
from coding_agent_testbed.until import until

from tests.fixtures.forge import commit
from tests.fixtures.system import BOT, BOT_TOKEN, PROCESSING, REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.scripts import finish, fixes_the_bug, run, script, write

FIRST = "coding-agent/issue-1"


async def test_it_opens_a_change_and_leaves_labels_and_comments_alone(make_place: MakePlace) -> None:
    place = make_place("gitlab", fixes_the_bug())
    place.system.put_label(1)
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, FIRST)
    [change] = place.system.changes()
    assert outcome.change_url is not None
    assert outcome.change_url.endswith(f"/{change.number}")
    assert outcome.usage.requests > 3
    assert (outcome.transcript or "").endswith("/run-1-uuid-1/attempt-1.jsonl")
    assert BOT in place.system.labels(1), "labels are the reporter's"
    assert PROCESSING not in place.system.labels(1)
    assert place.system.comments(1) == [], "the comment is the reporter's"


async def test_a_pod_refuses_what_a_stranger_asked_for_before_it_does_anything(make_place: MakePlace) -> None:
    place = make_place("github", fixes_the_bug())
    before = place.branches()
    outcome = await place.run(place.given(user="reader"))
    assert (outcome.reason, outcome.exit_code) == (Reason.NOT_AUTHORIZED, 77)
    assert outcome.message.startswith("reader applied the label, but only people with write access")
    assert (place.system.model.requests, place.branches()) == ([], before)


@pytest.mark.parametrize(("flavour", "wanted"), [("github", True), ("gitlab", False)])
async def test_the_model_sees_the_images_of_the_issue(
    make_place: MakePlace, flavour: str, wanted: bool
) -> None:
    place = make_place(flavour, fixes_the_bug())
    place.system.put_label(1)
    data, secret = b"\x89PNG\r\n\x1a\n of the price list", "0123456789abcdef" * 2
    forge = place.system.forge
    forge.sandbox.attachments |= {"id-1": data, f"{secret}/a.png": data}
    link = f"/uploads/{secret}/a.png"
    if flavour == "github":
        link = f"{forge.base_url}/user-attachments/assets/id-1"
    issue = place.system.item(1)
    issue.body += f"\n\n![price list]({link}) ![](https://evil.example/track.png)"
    outcome = await place.run(place.given(), llm={"images": wanted})
    assert outcome.reason is Reason.COMPLETED, outcome.message
    asked = str(place.system.model.requests[0])
    assert (base64.b64encode(data).decode() in asked) is wanted


async def test_a_stopped_attempt_pushes_what_it_has_and_the_next_one_continues_from_it(
    make_place: MakePlace,
) -> None:
    scripts = [
        Script(match="earlier attempt", turns=(run("cat begun.md"), finish())),
        *script(write("begun.md", "begun\n"), run("sleep 600"), finish()),
    ]
    place = make_place("github", scripts)
    stop = asyncio.Event()
    attempt = asyncio.create_task(place.run(place.given(timeout=600), stop=stop, grace=100))
    await place.asked(2)
    stop.set()
    async with asyncio.timeout(100):  # the grace time
        stopped = await attempt
    assert (stopped.reason, stopped.exit_code, stopped.branch) == (Reason.CANCELLED, 143, FIRST)
    assert stopped.message == "The attempt was stopped."
    assert place.system.file_at(FIRST, "begun.md") == "begun\n"
    assert place.system.changes() == [], "unfinished work is not a change yet"

    ended = "Attempt 1 ended: No answer (HTTP 503)."  # the transcript does not say it
    before = len(place.system.model.requests)
    outcome = await place.run(place.given(attempt=2, branch=FIRST, ended=ended))
    assert outcome.reason is Reason.COMPLETED
    first_words = str(place.system.model.requests[before]["messages"])
    assert "called write_file" in first_words
    assert ended in first_words
    assert "begun" in str(place.system.model.requests[-1]), "the workspace holds the earlier work"
    assert [change.head for change in place.system.changes()] == [FIRST], "one change"


async def test_work_is_pushed_while_it_is_done_so_that_a_killed_attempt_leaves_it(
    make_place: MakePlace,
) -> None:
    turns = (write("a.md", "a\n"), run("rm a.md; echo b > b.md"), run("sleep 600"), finish())
    place = make_place("github", script(*turns))
    attempt = asyncio.create_task(place.run(place.given(), consumer={"checkpoint_interval": 1e-9}))
    await place.asked(3)
    await asyncio.to_thread(
        until, "the work so far is pushed", lambda: FIRST in place.branches() and "b.md" in tree(place, FIRST)
    )
    assert "a.md" not in tree(place, FIRST)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


async def test_work_on_another_branch_is_no_success_without_a_change(make_place: MakePlace) -> None:
    side = run("git checkout -qb side; echo a > a.md; git add a.md; git commit -qm a; git checkout -q -")
    place = make_place("github", script(side, finish("It is done.")))
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, FIRST)
    assert place.system.file_at(FIRST, "a.md") == "a\n"
    assert "taken from the branch side" in outcome.summary


async def test_a_model_that_does_not_mend_its_change_is_told_to_the_person(make_place: MakePlace) -> None:
    place = make_place("github", script(run("truncate -s 700M data.bin"), *[finish()] * 3))
    outcome = await place.run(place.given())
    assert outcome.reason is Reason.CHANGE_REFUSED
    assert "data.bin (700 MiB)" in outcome.message
    assert len(place.system.model.requests) == 4


async def test_a_further_run_continues_an_open_change_and_leaves_a_closed_one_alone(
    make_place: MakePlace,
) -> None:
    place = make_place("github", script(run("echo more >> notes.md"), finish()))
    forge = place.system.forge
    commit(forge.repository(REPOSITORY).path, FIRST, {"notes.md": "more\n"})
    number = forge.open_change(REPOSITORY, FIRST, "main", by="coding-agent-bot")
    url = f"{forge.base_url}/{REPOSITORY}/pull/{number}"
    request = place.given().task.request
    state = State(uuid="uuid-1", phase=Phase.SUCCEEDED, branch=FIRST, change_url=url)
    since = request.trigger.received_at
    report = Report(task="t", item=request.item, labels=Labels(), state=state, max_attempts=3, since=since)
    forge.comment(REPOSITORY, 1, comment(report), by="coding-agent-bot")

    class Failing(ModelAgent):
        async def work(self, brief: Brief, workspace: Workspace, **rest: Any) -> Outcome:
            await super().work(brief, workspace, **rest)
            return Outcome(reason=Reason.MODEL_REFUSED, message="The model refused.")

    failed = await place.run(place.given(run=2), make_agent=Failing)
    assert (failed.reason, failed.change_url) == (Reason.MODEL_REFUSED, url)
    assert place.system.file_at(FIRST, "notes.md") == "more\nmore\n"

    [change] = place.system.changes()
    close(place, change)
    third = await place.run(place.given(run=3))
    assert third.branch == f"{FIRST}-r3"
    assert place.system.file_at(f"{FIRST}-r3", "notes.md") == "more\n"


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
async def test_a_first_run_continues_an_open_change_of_which_nothing_else_is_left(
    make_place: MakePlace, flavour: str
) -> None:
    """Somebody deleted the item's AgentTasks and our comment while the change was open."""
    place = make_place(flavour, script(run("echo more >> notes.md"), finish()))
    forge = place.system.forge
    commit(forge.repository(REPOSITORY).path, FIRST, {"notes.md": "more\n"})
    number = forge.open_change(REPOSITORY, FIRST, "main", by="coding-agent-bot")
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, FIRST)
    assert outcome.change_url is not None
    assert outcome.change_url.endswith(f"/{number}")
    assert len(place.open_changes()) == 1
    assert place.system.file_at(FIRST, "notes.md") == "more\nmore\n"


async def test_a_path_that_is_not_the_projects_gets_no_work_done(make_place: MakePlace) -> None:
    """The path chose the credential, and the number would be worked on."""
    place = make_place("gitlab", fixes_the_bug())
    outcome = await place.run(place.given(item={"repository": "acme/other"}))
    assert outcome.reason is Reason.ITEM_GONE
    assert "while reading the project of acme/other#1" in outcome.message
    assert place.system.model.requests == []
    assert place.open_changes() == []


async def test_an_item_that_is_gone_or_closed_is_not_worked_on(make_place: MakePlace) -> None:
    place = make_place("github", script(finish()))
    given = place.given()
    assert (await place.run(place.given(item={"number": 4711}))).reason is Reason.ITEM_GONE
    close(place, place.system.item(1))
    closed = await place.run(given)
    assert (closed.reason, closed.exit_code) == (Reason.ITEM_GONE, 65)
    assert place.system.model.requests == []


@pytest.mark.long
async def test_whatever_hangs_there_is_an_outcome_within_the_grace_time(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place("github", script(finish()))
    stop, working, released = asyncio.Event(), asyncio.Event(), asyncio.Event()
    limits: dict[str, float] = {}

    async def recorded(*action: Any, **given: Any) -> Any:
        limits.update(given)
        return await run_until(*action, **given)

    monkeypatch.setattr(attempt_program, "run_until", recorded)

    class Stubborn:
        async def work(self, *_: object, **__: object) -> Outcome:
            working.set()
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            return Outcome(reason=Reason.INTERNAL, message="Let go.")

    attempt = asyncio.create_task(
        place.run(place.given(timeout=600), stop=stop, grace=18, make_agent=lambda *_: Stubborn())
    )
    await working.wait()
    stop.set()
    try:
        async with asyncio.timeout(120):
            outcome = await attempt
    finally:
        released.set()
    assert limits["grace"] + limits["cleanup"] <= 18 - 3, "what is left is for the transcript and the outcome"
    assert (outcome.reason, outcome.branch) == (Reason.CANCELLED, None)
    assert outcome.message == "The attempt was stopped before its work could be pushed."


def tree(place: AttemptPlace, branch: str) -> list[str]:
    return place.system.git("ls-tree", "-r", "--name-only", branch).split()


def close(place: AttemptPlace, item: Item) -> None:
    """A person closes an issue or a change."""
    forge = place.system.forge
    repository, alice = forge.repository(REPOSITORY), forge.user("alice")
    forge.run(lambda: forge.sandbox.store.update(repository, item, alice, opened=False))


ASKS = """python3 - <<'END'
import json, os
from urllib.request import Request, urlopen
body = {"model": "scripted", "messages": [{"role": "user", "content": "Is anybody there?"}]}
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
urlopen(Request(url, json.dumps(body).encode(), headers), timeout=60).read()
END
"""


async def test_the_output_of_any_program_names_no_commit(make_place: MakePlace) -> None:
    place = make_place("github", [Script(turns=(Turn(text="Yes."),), loop=True)])
    noise = "echo 'npm WARN deprecated'; cat $CODING_AGENT_INSTRUCTIONS_FILE > made.md; echo Finished."
    consumer = {"runner": "command", "command": ["bash", "-c", ASKS + noise], "checkpoint_interval": 0}
    outcome = await place.run(place.given(), make_agent=make_agent, consumer=consumer)
    assert outcome.reason is Reason.COMPLETED, outcome
    title = place.system.item(1).title
    message = place.system.git("log", "-1", "--format=%B", FIRST)
    assert message.startswith(f"{title}\n")
    assert "npm WARN" not in message
    assert "npm WARN" in outcome.summary
    assert "You are a software engineer." in place.system.file_at(FIRST, "made.md")


async def test_it_is_stopped_at_the_next_push_and_overwrites_nothing(make_place: MakePlace) -> None:
    place = make_place("github", script(finish()))

    def somebody_pushes() -> str:
        git = place.system.git
        mine = git("commit-tree", "main^{tree}", "-p", FIRST, "-m", "Mine").strip()
        git("update-ref", f"refs/heads/{FIRST}", mine)
        return mine

    class Overtaken(ModelAgent):
        async def work(
            self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
        ) -> Outcome:
            await workspace.write_file("a.md", "a\n")
            await on_step(Step(1, "tool", "wrote a.md"))
            somebody_pushes()
            assert not stop.is_set()
            await workspace.write_file("b.md", "b\n")
            await on_step(Step(2, "tool", "wrote b.md"))
            await asyncio.wait_for(stop.wait(), timeout)
            return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped.")

    outcome = await place.run(place.given(), consumer={"checkpoint_interval": 1e-9}, make_agent=Overtaken)
    assert (outcome.reason, outcome.exit_code) == (Reason.BRANCH_MOVED, 75), outcome.message
    assert place.system.git("log", "-1", "--format=%s", FIRST).strip() == "Mine"


async def test_it_pushes_nothing_more_once_another_consumer_has_the_task(make_place: MakePlace) -> None:
    place, lost = make_place("github", script(finish())), asyncio.Event()

    class Lost(ModelAgent):
        async def work(
            self,
            brief: Brief,
            workspace: Workspace,
            *,
            stop: asyncio.Event,
            timeout: float,
            on_step: OnStep,
        ) -> Outcome:
            await workspace.write_file("a.md", "a\n")
            await on_step(Step(1, "tool", "wrote a.md"))
            lost.set()
            await workspace.write_file("b.md", "b\n")
            await on_step(Step(2, "tool", "wrote b.md"))
            return Outcome(reason=Reason.COMPLETED, message="Wrote both.")

    often = {"checkpoint_interval": 1e-9}
    outcome = await place.run(place.given(), lost=lost, consumer=often, make_agent=Lost)
    assert outcome.reason is Reason.PUSH_NOT_ALLOWED, outcome.message
    files = place.system.git("ls-tree", "--name-only", FIRST).split()
    assert "a.md" in files
    assert "b.md" not in files
    assert place.open_changes() == []


@pytest.mark.parametrize(("status", "reason"), [(422, Reason.FORGE_REJECTED), (409, Reason.FORGE_CONFLICT)])
async def test_a_change_that_the_forge_does_not_accept_ends_the_attempt_with_its_words(
    make_place: MakePlace, status: int, reason: Reason
) -> None:
    place = make_place("github", script(write("a.md", "a\n"), finish("Wrote it.")))
    words = {"message": f"No issue key in the title, {BOT_TOKEN}"}
    place.system.forge.fault(method="POST", path=r"/api/v3/.*/pulls", times=None, status=status, body=words)
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.branch) == (reason, FIRST), outcome.message
    assert "opening a pull request" in outcome.message
    assert "No issue key in the title, ***" in outcome.message
