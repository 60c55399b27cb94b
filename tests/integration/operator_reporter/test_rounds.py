"""Rounds: the reporter looks at our open changes, creates one task for each cause, and keeps the record."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.settings.load import load_settings
from coding_agent_core.task.agenttask import ANNOTATION_RESCAN, LABEL_REPORTED, RESCAN
from coding_agent_core.task.model import Item, Phase, Trigger, WithdrawalCause
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, RoundResult
from coding_agent_core.task.round_report import cause_of, report_of_round
from coding_agent_core.task.runs import StoredRescan, cancellation
from coding_agent_forges.webhooks.events import Rescan
from coding_agent_testbed.forge.model import Check, Kind
from coding_agent_testbed.until import until

from tests.fixtures.accounts import account
from tests.fixtures.hook_receiver import HookReceiver, Received
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, DONE, FLOW, PROCESSING, REPOSITORY, World

US = "coding-agent-bot"
Start = Callable[..., Reporter]
ON = {"enabled": True, "interval": 0.3, "checks_quiet": 0, "review_quiet": 0}
FILE = "numbers.txt"


@dataclass
class Change:
    """A change that our account opened."""

    world: World
    number: int
    branch: str

    @property
    def head(self) -> str:
        return self.world.forge.item(REPOSITORY, self.number, "change").tips.head_sha

    @property
    def item(self) -> Item:
        return self.world.item(self.number).model_copy(update={"kind": ItemKind.CHANGE})

    def push(self, text: str) -> str:
        self.world.forge.push(REPOSITORY, self.branch, {FILE: text}, by=US)
        return self.head

    def fail(self, name: str = "test") -> None:
        self.world.forge.add_check(REPOSITORY, self.head, name, "failure", log=b"1 failed\n")

    def say(self, text: str) -> None:
        self.world.forge.comment(REPOSITORY, self.number, text, kind="change", by="alice")

    def labels(self) -> set[str]:
        item = self.world.forge.item(REPOSITORY, self.number, "change")
        return self.world.forge.run(lambda: {label.name for label in item.labels}) & FLOW

    def comment(self) -> str:
        item = self.world.forge.item(REPOSITORY, self.number, Kind.CHANGE)
        found = self.world.forge.run(lambda: [one.body for one in item.comments if MARKER in one.body])
        assert len(found) <= 1
        return found[0] if found else ""

    def record(self) -> RoundRecord:
        state = read_state(self.comment())
        return (state.rounds if state else None) or RoundRecord()

    def rounds(self) -> list[str]:
        """The names of the rounds' tasks."""
        tasks = self.world.tasks().values()
        mine = [one for one in tasks if one["spec"]["trigger"].get("round")]
        own = [one for one in mine if one["spec"]["source"]["number"] == self.number]
        return [one["metadata"]["name"] for one in sorted(own, key=lambda one: int(one["spec"]["run"]))]

    def a_round(self, count: int = 1) -> str:
        """Wait until there are so many rounds; the newest."""
        until(f"{count} rounds", lambda: len(self.rounds()) == count)
        return self.rounds()[-1]

    def works(self, name: str) -> None:
        self.world.set_phase(name, Phase.RUNNING)
        until("shown", lambda: "working on it" in self.comment() and PROCESSING in self.labels())

    def ends(self, name: str, end: RoundEnd, after: str, **reported: Any) -> None:
        """The operator passes on what the attempt reported."""
        given = Trigger.model_validate(self.world.read(name)["spec"]["trigger"]).round
        assert given is not None
        cause = cause_of(given)
        result = RoundResult(cause, datetime.now(UTC), end, after)
        report = report_of_round(result).model_dump(mode="json", exclude_none=True)
        self.world.set_phase(name, Phase.SUCCEEDED, result={"round": report, **reported})
        until("reported", lambda: self.world.is_reported(name))


@pytest.fixture
def open_change(world: World) -> Callable[..., Change]:
    world.sections["rounds"] = ON
    world.forge.sandbox.mergeability_lag = 0
    world.forge.push(REPOSITORY, "main", {FILE: "one\n"})

    def opened(branch: str = "coding-agent/issue-1", *, draft: bool = False) -> Change:
        world.forge.push(REPOSITORY, branch, {FILE: f"two on {branch}\n"}, by=US)
        number = world.forge.open_change(REPOSITORY, branch, "main", title="Say two", draft=draft, by=US)
        return Change(world, number, branch)

    return opened


def comment_on(world: World, number: int) -> str:
    """Our comment on an issue."""
    issue = world.forge.item(REPOSITORY, number, Kind.ISSUE)
    found = world.forge.run(lambda: [one.body for one in issue.comments if MARKER in one.body])
    return found[0] if found else ""


def looks(world: World, process: Reporter, result: str = "done") -> float:
    try:
        return process.metric(f'coding_agent_reporter_scans_total{{host="{world.host}",result="{result}"}}')
    except AssertionError:
        return 0.0


def look_again(world: World, process: Reporter, times: int = 3) -> None:
    """Wait for so many whole looks from now on."""
    begun = looks(world, process)
    until("looked", lambda: looks(world, process) > begun + times)


def ask(world: World, name: str) -> None:
    """What the receiver does after an event."""
    labels = {LABEL_REPORTED: RESCAN} if world.is_reported(name) else {}
    note = {ANNOTATION_RESCAN: StoredRescan(at=datetime.now(UTC), changes=True).model_dump_json()}
    world.patch(name, {"metadata": {"annotations": note, "labels": labels}})


def is_answered(world: World, name: str) -> bool:
    metadata: dict[str, Any] = world.read(name)["metadata"]
    return ANNOTATION_RESCAN not in metadata.get("annotations", {}) and (
        metadata["labels"].get(LABEL_REPORTED) != RESCAN
    )


def test_a_failed_check_makes_one_round_until_the_head_changes(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    change = open_change()
    change.fail()
    process = start()
    first = change.a_round()
    spec = world.read(first)["spec"]
    assert (spec["trigger"]["cause"], spec["trigger"]["origin"]) == ("checks", "poll")
    assert first.endswith(spec["trigger"]["round"]["namePart"])
    assert spec["trigger"]["round"]["head"] == change.head
    assert spec["source"]["kind"] == "change"
    for _ in range(2):  # the event arrives twice
        ask(world, first)
        until("answered", lambda: is_answered(world, first))
    look_again(world, process)
    assert change.rounds() == [first]
    change.works(first)
    assert "checks round 1 of 3" in change.comment()
    assert change.labels() == {PROCESSING}
    before, after = change.head, change.push("three\n")
    change.ends(first, RoundEnd.PUSHED, after)
    assert change.labels() == {DONE}
    [entry] = change.record().rounds
    assert (entry.end, entry.before, entry.after) == (RoundEnd.PUSHED, before, after)
    look_again(world, process)
    assert change.rounds() == [first]
    change.fail()
    second = change.a_round(2)
    change.works(second)
    assert "checks round 2 of 3" in change.comment()
    change.ends(second, RoundEnd.NO_PUSH, after)
    assert [one.end for one in change.record().rounds] == [RoundEnd.PUSHED, RoundEnd.NO_PUSH]
    until("it says why it stops", lambda: "it changed nothing here" in change.comment())
    look_again(world, process)
    assert len(change.rounds()) == 2
    assert process.metric('coding_agent_reporter_rounds_total{cause="checks"}') == 2


def test_a_run_that_reports_nothing_is_recorded_and_not_repeated(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    change = open_change()
    change.fail()
    process = start()
    name = change.a_round()
    world.set_phase(name, Phase.FAILED)
    until("reported", lambda: world.is_reported(name))
    assert [one.end for one in change.record().rounds] == [RoundEnd.FAILED]
    # The task is swept at some time; the record remains.
    world.plane.custom.delete_namespaced_custom_object(*world._place, name, _request_timeout=60)
    look_again(world, process)
    assert change.rounds() == []


@pytest.mark.parametrize("how", ["closed", "hands off", "cancelled"])
def test_a_round_whose_change_was_closed_or_left_to_people_is_not_counted(
    world: World, start: Start, open_change: Callable[..., Change], how: str
) -> None:
    change, kind, label = open_change(), Kind.CHANGE, "coding agent hands off"
    change.fail()
    start()
    name = change.a_round()
    if how == "closed":
        change.works(name)
        world.forge.close(REPOSITORY, change.number, kind=kind)
    elif how == "hands off":
        world.forge.add_label(REPOSITORY, change.number, label, kind=kind)
    else:
        world.patch(name, cancellation("alice cancelled it with a comment", WithdrawalCause.COMMAND))
    until("it is cancelled", lambda: world.read(name)["spec"].get("cancel"))
    world.set_phase(name, Phase.CANCELLED)
    ends, unbegun = ([RoundEnd.CANCELLED], 0) if how == "cancelled" else ([], 1)

    def is_recorded() -> bool:
        record = change.record()
        return [one.end for one in record.rounds] == ends and len(record.superseded) == unbegun

    until("it is recorded", is_recorded)
    if how == "closed":
        world.forge.reopen(REPOSITORY, change.number, kind=kind)
    elif how == "hands off":
        until("it says why", lambda: f"has the label `{label}`" in change.comment())
        world.forge.remove_label(REPOSITORY, change.number, label, kind=kind)
    else:
        until("it says why no round follows", lambda: "was cancelled" in change.comment())
        assert change.rounds() == [name]
        return
    again = change.a_round(2)
    assert world.read(again)["spec"]["trigger"]["round"]["number"] == 1


def test_a_mention_makes_one_round_of_the_person_who_asked_for_the_work(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    number = world.issue(BOT)
    task = world.task(number)
    change = open_change(f"coding-agent/issue-{number}")
    process = start()
    change.say("This is fine.")
    look_again(world, process)
    assert change.rounds() == []
    change.say(f"@{US} please say three.")
    name = change.a_round()
    spec = world.read(name)["spec"]
    assert (spec["trigger"]["cause"], spec["user"]) == ("review", world.read(task)["spec"]["user"])
    look_again(world, process)
    assert change.rounds() == [name]


def test_our_draft_becomes_ready_and_its_issue_shows_the_rounds(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    number = world.issue(BOT)
    task, branch = world.task(number), f"coding-agent/issue-{number}"
    change = open_change(branch, draft=True)
    world.sections["rounds"] = {**ON, "draft": True}
    url = f"{world.forge.base_url}/{REPOSITORY}/{FACTS[change.item.platform].change_path}/{change.number}"
    item = world.forge.item(REPOSITORY, change.number, "change")

    def issue_comment() -> str:
        return comment_on(world, number)

    change.fail()
    process = start()
    world.set_phase(task, Phase.SUCCEEDED, result={"branch": branch, "changeURL": url})
    until("reported", lambda: world.is_reported(task))
    name = change.a_round()
    assert item.draft
    usage = {"requests": 3, "cost": {"amount": "0.34", "currency": "USD"}}
    change.ends(name, RoundEnd.PUSHED, change.push("three\n"), usage=usage)
    shown = "was opened: 1 round for failed checks; cost 0.34 USD."
    until("the issue shows it", lambda: shown in issue_comment())
    assert url in issue_comment()
    assert shown in change.comment()
    world.forge.add_check(REPOSITORY, change.head, "test", "success", log=b"1 passed\n")
    until("it is ready", lambda: not item.draft)
    # A new process, which remembers nothing, writes nothing; and a person's draft stays one.
    process.stop(signal.SIGKILL)
    world.forge.set_draft(REPOSITORY, change.number, draft=True, by="alice")
    before, sent = issue_comment(), len(world.requests())
    look_again(world, start())
    assert item.draft
    assert issue_comment() == before
    assert not [one for one in world.requests()[sent:] if one["method"] in ("PUT", "PATCH")]


def test_a_closed_issue_does_not_show_later_rounds(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    number = world.issue(BOT)
    task, branch = world.task(number), f"coding-agent/issue-{number}"
    change = open_change(branch)
    url = f"{world.forge.base_url}/{REPOSITORY}/{FACTS[change.item.platform].change_path}/{change.number}"
    process = start()
    world.set_phase(task, Phase.SUCCEEDED, result={"branch": branch, "changeURL": url})
    until("reported", lambda: world.is_reported(task))
    change.fail()
    name = change.a_round()
    world.close(number)
    before = comment_on(world, number)
    change.ends(name, RoundEnd.PUSHED, change.push("three\n"))
    look_again(world, process)
    # As the receiver does when somebody writes a command: the task is reported again.
    world.patch(task, {"metadata": {"labels": {LABEL_REPORTED: None}}})
    until("reported again", lambda: world.is_reported(task))
    assert comment_on(world, number) == before


def test_a_resting_change_costs_one_request(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    change = open_change()
    change.say(f"@{US} please say three.")
    process = start()
    name = change.a_round()
    change.ends(name, RoundEnd.NO_PUSH, change.head)
    look_again(world, process)
    # In this order no look that was under way at the beginning counts with its requests and not with itself.
    done, sent = looks(world, process), len(world.requests())
    look_again(world, process, 5)
    asked = len(world.requests()) - sent
    cost = asked / (looks(world, process) - done)
    assert cost <= (1.5 if world.flavour == "github" else 2.5), world.requests()[-12:]


def test_a_flaky_check_runs_again_twice_without_a_task(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    change = open_change()
    repository = world.forge.repository(REPOSITORY)

    def newest() -> Check:
        return world.forge.run(
            lambda: world.forge.sandbox.reviews.checks(repository, change.head, latest=True)[-1]
        )

    def end(result: str) -> None:
        world.forge.add_check(REPOSITORY, change.head, "test", result, log=b"1 failed\n")

    def killed_and_started() -> Reporter:
        process.stop(signal.SIGKILL)
        return start()

    end("success")
    end("failure")
    process = start()
    until("it is recorded", lambda: len(change.record().reruns) == 1)
    assert "asked to run these checks again" in change.comment()
    assert newest().result == ""
    look_again(world, process)
    process = killed_and_started()
    look_again(world, process)
    end("failure")
    until("it is recorded", lambda: len(change.record().reruns) == 2)
    process = killed_and_started()
    end("failure")
    look_again(world, process)
    asked = [one for one in world.requests() if re.search(r"/(rerun|retry)$", one["path"])]
    assert (len(asked), newest().result, change.rounds()) == (2, "failure", [])
    assert "so they are flaky" in change.comment(), "although the change has no task"
    change.say(f"@{US} please say three.")
    name = change.a_round()
    change.works(name)
    change.ends(name, RoundEnd.NO_PUSH, change.head)
    until("it says why no round follows", lambda: "so they are flaky" in change.comment())
    assert [(len(one.reruns), len(one.rounds)) for one in [change.record()]] == [(2, 1)]


def test_a_rerun_whose_answer_is_lost_was_asked(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    change = open_change()
    world.forge.fault(path=r".*/(rerun|retry)$", method="POST", close="after", times=None)
    sandbox, repository = world.forge.sandbox, world.forge.repository(REPOSITORY)

    def runs() -> list[Check]:
        return world.forge.run(lambda: sandbox.reviews.checks(repository, change.head))

    for result in ("success", "failure"):
        world.forge.add_check(REPOSITORY, change.head, "test", result, log=b"1 failed\n")
    process = start()
    for count in (1, 2):  # the forge runs it again each time
        until("it is recorded", lambda: len(change.record().reruns) >= count)  # noqa: B023 - called at once
        assert "but its answer was lost" in change.comment()
        assert len(runs()) == 2 + count
        world.forge.add_check(REPOSITORY, change.head, "test", "failure", log=b"1 failed\n")
    look_again(world, process)
    asked = [one for one in world.requests() if re.search(r"/(rerun|retry)$", one["path"])]
    assert (len(asked), change.rounds()) == (2, [])


def deliver(world: World, kubeconfig: Path, received: Received) -> str | None:
    """Do with a webhook what the receiver does; the task that has to be looked at."""
    settings = load_settings(world.config(), {})
    module: Any = forge_module(Platform(world.flavour), "webhook")
    delivery = module.delivery(received.headers)
    meaning = module.interpret(delivery, received.payload, settings, datetime.now(UTC))

    async def look() -> str | None:
        sink = KubernetesSink(Access(str(kubeconfig)), world.namespace, settings.consumer, total_timeout=60)
        try:
            return await sink.look(meaning.items)
        finally:
            await sink.aclose()

    return asyncio.run(look()) if isinstance(meaning, Rescan) else None


def test_an_event_causes_a_look_and_twice_the_event_makes_no_second_round(
    world: World, start: Start, open_change: Callable[..., Change], hook_receiver: HookReceiver
) -> None:
    number = world.issue(BOT)
    task = world.task(number)
    change = open_change(f"coding-agent/issue-{number}")
    world.sections["rounds"] = ON | {"interval": 3600}
    process = start()
    world.set_phase(task, Phase.SUCCEEDED)
    until("reported", lambda: world.is_reported(task))
    until("looked", lambda: looks(world, process) == 1)
    world.forge.add_hook(REPOSITORY, hook_receiver.url, "a secret")
    change.fail()
    receiver = account(world.plane, "receiver/deploy/role.yaml", world.namespace, world.folder)
    checks = {"check_run", "check_suite", "status", "Pipeline Hook"}

    def is_check(one: Received) -> bool:
        return bool(checks & {one.headers.get("x-github-event"), one.headers.get("x-gitlab-event")})

    until(
        "a look is asked for",
        lambda: (
            task in [deliver(world, receiver, one) for one in list(hook_receiver.deliveries) if is_check(one)]
        ),
    )
    name = change.a_round()
    until("answered", lambda: is_answered(world, task))
    assert world.is_reported(task), "it is not reported again"
    before = looks(world, process)
    asked = [deliver(world, receiver, one) for one in list(hook_receiver.deliveries) if is_check(one)]
    assert {name, task} & set(asked)
    until("looked", lambda: looks(world, process) > before)
    assert change.rounds() == [name]


def test_a_broken_change_holds_back_no_other(
    world: World, start: Start, open_change: Callable[..., Change]
) -> None:
    task = world.task(world.issue(BOT))
    broken, whole = open_change("coding-agent/issue-1"), open_change("coding-agent/issue-2")
    broken.fail()
    whole.fail()
    broken.say("x" * 100)
    world.forge.comment(REPOSITORY, broken.number, f"{'y' * 5000}", kind="change", by=US)
    plural = {"github": "issues", "gitlab": "merge_requests"}[world.flavour]
    fault = world.forge.fault(path=rf".*/{plural}/{broken.number}/(comments|notes).*", status=500, times=None)
    process = start()
    whole.a_round()
    until("it is set aside", lambda: "is set aside" in process.log())

    def said() -> list[str]:
        return [message for reason, message in world.events(task) if reason == "ChangeSetAside"]

    until("its issue's task says so", said)
    assert broken.rounds() == []
    fault.end()
    broken.a_round()
    assert len(said()) == 1
