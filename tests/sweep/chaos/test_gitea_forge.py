"""People act on a real Gitea as on the sandbox forge, and what it remembers shows what they did and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from coding_agent_testbed.gitea import GiteaError, find
from coding_agent_testbed.until import until

from tests.chaos import mergeability
from tests.chaos.change_acts import BOT, CHANGE_KINDS
from tests.chaos.gitea_forge import GiteaForge
from tests.chaos.people import Act, Cast, People
from tests.chaos.proxies import DeliveryProxy, TcpProxy
from tests.chaos.world import NothingToBreakError
from tests.fixtures.hook_receiver import HookReceiver
from tests.fixtures.system import SECRET

PLACE = "acme/pricing"
LABEL, PROCESSING = "coding agent", "coding agent processing"
PEOPLE = {"ada": "member", "grace": "member", "eve": "stranger"}
API = "/(api|graphql|.*/(info/refs|git-))"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GiteaForge]:
    """A Gitea of its own, because its process is broken, with the way of the system to it."""
    try:
        find()
    except GiteaError as absent:
        pytest.skip(str(absent))
    way = TcpProxy()
    folder, url = tmp_path_factory.mktemp("gitea"), f"http://127.0.0.1:{way.port}"
    with GiteaForge(folder, "127.0.0.1", url, PEOPLE, BOT, [PLACE]) as forge:
        way.aim(("127.0.0.1", forge.port))
        yield forge
    way.close()


@pytest.fixture
def bot(forge: GiteaForge) -> Iterator[httpx2.Client]:
    """The API as the system reaches it."""
    headers = {"authorization": f"token {forge.bot_token}"}
    url = f"{forge.api_url}/repos/{PLACE}"
    with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def act(people: People, kind: str, step: int = 0, text: str = "") -> None:
    row = people.cast.kinds[kind]
    actor = "eve" if row.role == "stranger" else "ada"
    assert people.perform(Act(0.0, kind, step, "item-1", PLACE, actor, text or row.text)) == "", kind


def test_what_people_and_the_bot_do_is_in_the_events(
    forge: GiteaForge, bot: httpx2.Client, hook_receiver: HookReceiver
) -> None:
    people = People(forge, Cast([PLACE], PEOPLE, more_kinds=CHANGE_KINDS))
    with DeliveryProxy(hook_receiver.url, "gitea.test", BOT) as deliveries:
        forge.add_hook(PLACE, f"{deliveries.url}/webhook", SECRET)
        act(people, "open with the label", text="item-1 works for 0 s")
        number = people.numbers["item-1"]
        for step in (0, 1):
            act(people, "relabel within a second", step)
        act(people, "/run of a stranger")
        wanted = {("issue", "opened", ""), ("issue", "labeled", LABEL), ("issue", "commented", "")}

        def said() -> set[tuple[str, str, str]]:
            return {(one["kind"], one["event"], one["label"]) for one in deliveries.records}

        until(lambda: f"the webhooks: {said()}", lambda: said() >= wanted)

    comment = bot.post(f"/issues/{number}/comments", json={"body": "working"}).json()["id"]
    bot.patch(f"/issues/comments/{comment}", json={"body": "done"})
    bot.post(f"/issues/{number}/labels", json={"labels": [PROCESSING]})
    branch = f"coding-agent/issue-{number}"
    file = {"path": "work.txt", "content": "ZG9uZQo=", "operation": "create"}
    bot.post("/contents", json={"branch": "main", "new_branch": branch, "message": "Work", "files": [file]})
    change = bot.post("/pulls", json={"base": "main", "head": branch, "title": "Work"}).json()["number"]
    for kind in (
        *("comment on a line", "reply of a stranger in a thread", "resolve a thread", "request changes"),
        *("check fails for good", "mention", "push to main", "push a conflict to main"),
        *("push to the change's branch", "close the change", "reopen the change", "close"),
    ):
        act(people, kind)
    item = forge.item(PLACE, change, "change")
    for result in ("", "failure"):
        forge.add_check(PLACE, item.tips.head_sha, "unit", result, log=b"1 failed\nFAILED: test_area\n")
    check = forge.rerun(PLACE, people.ci.newest(PLACE, item) or pytest.fail("no check"), by="ada")
    assert (check.result, check.attempt) == ("", 2)

    events = forge.events()
    assert [event.at for event in events] == sorted(event.at for event in events)
    on_issue = [(one.event, one.actor, one.label or one.body) for one in events if one.number == number]
    assert on_issue == [
        ("opened", "ada", "Please do it."),
        ("labeled", "ada", LABEL),
        ("unlabeled", "ada", LABEL),
        ("labeled", "ada", LABEL),
        ("commented", "eve", "/run"),
        ("commented", BOT, "working"),
        ("comment_edited", BOT, "done"),
        ("labeled", BOT, PROCESSING),
        ("closed", "ada", None),
    ]
    on_change: list[Any] = [(one.event, one.actor) for one in events if one.number == change]
    assert on_change == [
        ("opened", BOT),
        ("review_commented", "ada"),
        ("review_commented", "eve"),
        ("resolved", "ada"),
        ("reviewed", "ada"),
        ("commented", "ada"),
        ("closed", "ada"),
        ("reopened", "ada"),
    ]
    checks = [(one.state, one.body, one.commit) for one in events if one.event == "check"]
    head = item.tips.head_sha
    assert [state for state, _, _ in checks] == ["running", "failure", "running"]
    assert checks[1] == ("failure", "FAILED: test_area", head)
    pushes = [(one.actor, one.branch) for one in events if one.event == "pushed"]
    assert pushes == [(BOT, branch), ("ada", "main"), ("ada", "main"), ("ada", branch)]
    assert [one["merges"] for one in mergeability.records(forge, "gitea.test")] == [True, True, False, False]


def test_a_broken_gitea_keeps_people_waiting_and_what_it_lost_is_told_by_itself(
    forge: GiteaForge, bot: httpx2.Client
) -> None:
    number = forge.open_issue(PLACE, "item-1 fails", by="ada", labels=[LABEL])
    lost = forge.fault(path="/api", method="POST", times=None, close="after")
    # Whether the cut is a clean end or a reset depends on what is still unread.
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        bot.post(f"/issues/{number}/comments", json={"body": "working"})
    lost.end()
    refused = forge.fault(path=API, times=None, status=502)
    assert bot.get("").status_code == 502
    assert forge.item(PLACE, number).open, "people are not refused"
    refused.end()
    assert (lost.hits, refused.hits) == (1, 1)
    repair = forge.kill()
    forge.check()
    assert bot.get("").status_code == 502
    assert repair().count == 1
    repair = forge.stop()
    with pytest.raises(httpx2.ReadTimeout):
        bot.get("", timeout=1)
    with pytest.raises(NothingToBreakError):
        forge.kill()
    assert repair().count == 1
    forge.close(PLACE, number, by="grace")
    # A request whose answer nobody saw: Gitea alone can say that it took effect.
    forge.recorder.writes.clear()
    events = [(one.event, one.actor, one.body) for one in forge.events() if one.number == number]
    assert events == [
        ("opened", "ada", ""),
        ("labeled", "ada", None),
        ("commented", BOT, "working"),
        ("closed", "grace", None),
    ]
