"""The reporter as its administrators see it: probes, metrics, and the problems that it records."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_core.task.model import Phase
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT_TOKEN, REPOSITORY
from tests.integration.operator.crash_proxy import proxy_of
from tests.integration.operator_reporter.process import Reporter, account
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, World

Start = Callable[..., Reporter]
pytestmark = pytest.mark.parametrize("flavour", ["github"])


def test_without_its_token_it_is_healthy_and_starts_once_the_token_is_there(
    world: World, start: Start, tmp_path: Path
) -> None:
    token = tmp_path / "credentials" / "github-token"
    world.sections["github"] = {
        "api_url": world.forge.api_url,
        "personal_access_token": {"files": [str(token)]},
    }
    process = start()
    until("it says what is missing", lambda: "Waiting for a token" in process.log())
    assert str(token) in process.log()
    assert (process.probe("/livez"), process.probe("/readyz")) == ((200, "ok"), (200, "ok"))
    number = world.issue(BOT)
    world.set_phase(world.task(number), Phase.RUNNING)
    token.parent.mkdir()
    token.write_text(BOT_TOKEN)
    world.shows(number, "working on it", {"coding agent processing"})


def test_of_two_replicas_one_works_and_the_other_takes_over_at_once(world: World, start: Start) -> None:
    world.sections["operator"] = {"namespace": world.namespace, "lease_duration": 15}
    first = start()
    second = start(pod="coding-agent-reporter-x7k2p")
    until("the second waits", lambda: "acts in this namespace" in second.log())
    leader = "coding_agent_reporter_leader"
    assert (first.metric(leader), second.metric(leader)) == (1, 0)
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    assert first.stop() == 0
    until("the second works", lambda: second.metric(leader) == 1)
    world.set_phase(name, Phase.SUCCEEDED)
    world.shows(number, "Coding agent: done", {DONE})
    taken = '{"spec": {"holderIdentity": "another"}}'
    lease = ("lease", "coding-agent-reporter", "--type=merge", f"--patch={taken}")
    world.plane.kubectl("-n", world.namespace, "patch", *lease)
    until("it ends, to start again and wait", second.ended)
    assert "another holds the Lease coding-agent-reporter now" in second.log()


def test_a_stop_waits_for_the_comment_that_a_slow_forge_is_about_to_store(world: World, start: Start) -> None:
    """The forge stores it also if its sender has gone, and the next reporter would not find it before."""
    comments = f"/api/v3/repos/{REPOSITORY}/issues/[0-9]+/comments"
    slow = world.forge.fault(method="POST", path=comments, delay_ms=4000)
    first = start()
    number = world.issue(BOT)
    world.set_phase(world.task(number), Phase.RUNNING)
    until("the comment is under way", lambda: slow.hits)
    assert first.stop() == 0
    start(pod="coding-agent-reporter-x7k2p")
    world.shows(number, "working on it", {PROCESSING})
    sent = [
        one for one in world.requests() if one["method"] == "POST" and re.fullmatch(comments, one["path"])
    ]
    until("the forge has answered all", lambda: all(one["status"] for one in world.requests()))
    assert len(world.comments(number)) == len(sent) == 1


@pytest.mark.long
def test_one_that_sleeps_writes_nothing_on_the_forge_when_it_wakes(world: World, start: Start) -> None:
    """1. The first shows a running task; its second write waits for its turn, and the first sleeps.

    2. The second takes the Lease, and shows how the task ended.
    3. The first wakes up, and its write has its turn. It must not show that the task is being worked on.
    """
    world.sections["operator"] = {"namespace": world.namespace, "lease_duration": 3}  # meant to expire
    first = start(forge_limits=True, forge_share=0.05)
    until("it works", lambda: first.metric("coding_agent_reporter_leader") == 1)
    start(pod="coding-agent-reporter-x7k2p")
    number = world.issue(BOT)
    before = world.history(number)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    until("it writes", lambda: world.comment(number) or world.history(number) != before)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        world.shows(number, "working on it", {PROCESSING})
        world.set_phase(name, Phase.SUCCEEDED)
        world.shows(number, "Coding agent: done", {DONE})
        before = world.history(number)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    until("the first ends, to start again and wait", first.ended)
    world.shows(number, "Coding agent: done", {DONE})
    assert world.history(number) == before


def is_zero(process: Reporter, gauge: str) -> None:
    until(f"{gauge} is 0", lambda: process.metric(gauge) == 0)


def test_metrics(world: World, start: Start) -> None:
    process = start()
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.SUCCEEDED)
    until("reported", lambda: world.is_reported(name))
    host, value = world.host, process.metric
    requests = "coding_agent_reporter_forge_requests_total"
    assert value(f'{requests}{{host="{host}",kind="read",status="200"}}') > 2
    assert value(f'{requests}{{host="{host}",kind="write",status="201"}}') == 1  # the comment
    for gauge in ("pending", "oldest_pending_seconds", "forge_unavailable_seconds"):
        is_zero(process, f'coding_agent_reporter_{gauge}{{host="{host}"}}')
    assert value('coding_agent_reporter_shown_total{phase="Succeeded"}') == 1
    assert value('coding_agent_reporter_api_requests_total{status="200",verb="PATCH"}') >= 1
    assert process.probe("/livez") == (200, "ok")


def test_a_dead_watch_is_noticed_and_the_work_continues(world: World, tmp_path: Path) -> None:
    kubeconfig = account(world.plane, world.namespace, tmp_path)
    with proxy_of(world.plane.kubeconfig) as proxy:
        text = kubeconfig.read_text()
        server = re.search(r'"server": "([^"]+)"', text)
        assert server
        kubeconfig.write_text(text.replace(server[1], proxy.url))
        world.kubeconfig = kubeconfig
        # A task that is settled is not watched any more, and with it goes what the watch has not shown.
        process = world.reporter(relist_interval=0.5, grace=3600).start().ready()
        try:
            number = world.issue(BOT)
            name = world.task(number)
            world.set_phase(name, Phase.RUNNING)
            world.shows(number, "working on it", {PROCESSING})
            until("the watch shows it too", lambda: process.probe("/livez") == (200, "ok"))
            proxy.deaf = True
            world.set_phase(name, Phase.SUCCEEDED)
            world.shows(number, "Coding agent: done", {DONE})
            until("liveness", lambda: process.probe("/livez") == (503, "the watch is dead"))
        finally:
            process.stop()


def test_a_forge_that_is_not_configured_is_recorded_and_stops_nothing_else(
    world: World, start: Start
) -> None:
    start()
    number = world.issue(BOT)
    elsewhere = world.task(7, item=world.item(7).model_copy(update={"host": "forge.example"}))
    here = world.task(number)
    world.set_phase(elsewhere, Phase.RUNNING)
    world.set_phase(here, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    problem = until("recorded", lambda: world.condition(elsewhere, "Reported"))
    assert (problem["status"], problem["reason"]) == ("False", "ForgeNotConfigured")
    assert "forge.example" in problem["message"]
    until("an Event", lambda: "ForgeNotConfigured" in [reason for reason, _ in world.events(elsewhere)])


def test_a_refusal_is_recorded_and_stops_nothing_else(world: World, start: Start) -> None:
    start()
    refused, other = world.issue(BOT), world.issue(BOT)
    name = world.task(refused)
    labels = f"/api/v3/repos/acme/pricing/issues/{refused}/labels"
    world.fault(
        method="POST", path=labels, status=403, body={"message": "Resource not accessible"}, times=10_000
    )
    world.set_phase(name, Phase.RUNNING)
    world.set_phase(world.task(other), Phase.RUNNING)
    world.shows(other, "working on it", {PROCESSING})
    problem = until("recorded", lambda: world.condition(name, "Reported"))
    assert (problem["status"], problem["reason"]) == ("False", "ForgeRefused")
    # The sentence names our account if the reporter knows it by now.
    assert re.search(r"Check (the|coding-agent-bot's) token and its permissions", problem["message"])
    assert not world.condition(name, "LabelsShown")
    world.clear_faults()
    world.shows(refused, "working on it", {PROCESSING})
    until("the problem is over", lambda: world.condition(name, "Reported")["status"] == "True")
    assert [reason for reason, _ in world.events(name)].count("ForgeRefused") == 1


def test_an_item_that_is_gone(world: World, start: Start) -> None:
    """It was deleted or moved: nothing can be shown, nothing hangs, and the requests end."""
    start()
    name = world.task(4711)
    world.set_phase(name, Phase.RUNNING)
    until("recorded", lambda: world.condition(name, "Reported").get("reason") == "ItemNotFound")
    world.set_phase(name, Phase.FAILED, reason="ItemGone")
    until("left alone", lambda: world.is_reported(name))
    assert world.condition(name, "LabelsShown")["status"] == "True"


def test_a_task_whose_repository_is_renamed_ends_under_the_new_name(world: World, start: Start) -> None:
    """Each write is redirected, and shown on the item that people see."""
    start()
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    issue = world.forge.item(REPOSITORY, number)
    world.forge.rename(REPOSITORY, "other/costs")
    world.set_phase(name, Phase.FAILED, reason="CannotBeDone")
    until("left alone", lambda: world.is_reported(name))
    assert PROCESSING not in {label.name for label in issue.labels}
    [ours] = [comment.body for comment in issue.comments if MARKER in comment.body]
    assert "failed" in ours.partition("\n")[0]


def test_an_item_of_an_archived_repository(world: World, start: Start) -> None:
    """Nobody can change it, so the requests end with the task."""
    start()
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    world.forge.repository(REPOSITORY).archived = True
    world.set_phase(name, Phase.FAILED, reason="PushNotAllowed")
    until("left alone", lambda: world.is_reported(name))
