"""Wrong histories: changes of recorded clean ones, each of which breaks a promise of the system.

Whoever wrote them had not read the judge. They show what it finds that nobody told it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parents[2] / "data/histories"
RABBITMQ, KUBERNETES = _FOLDER / "rabbitmq-github", _FOLDER / "kubernetes-github"
BOT = "coding-agent-bot"
P, I2, I4, I7 = "acme/pricing", 2, 4, 7
"""The repository of most items, and the numbers of issues: done, cancelled, and done twice (after `/run`)."""
_FIELDS = [
    "actor",
    "after",
    "at",
    "base",
    "before",
    "body",
    "branch",
    "check",
    "comment",
    "commit",
    "event",
    "host",
    "id",
    "kind",
    "label",
    "number",
    "record",
    "repository",
    "review",
    "reviewer",
    "state",
    "thread",
    "title",
]

Record = dict[str, Any]
Change = Callable[["Changed"], None]
WRONG: list[tuple[str, Path, Change]] = []
"""The name of each wrong history, the folder of the clean one, and what is changed."""


def wrong(folder: Path) -> Callable[[Change], Change]:
    """Add a change of the clean history in this folder to `WRONG`."""

    def add(change: Change) -> Change:
        WRONG.append((getattr(change, "__name__", ""), folder, change))
        return change

    return add


def t(at: str, **later: float) -> str:
    """Return a later time."""
    return (datetime.fromisoformat(at) + timedelta(**later)).isoformat()


def _when(record: Record) -> datetime:
    text = record.get("at") or record.get("requestReceivedTimestamp") or record["start"]
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Changed:
    """A copy of recorded facts that can be changed."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.r: list[Record] = [copy.deepcopy(dict(record)) for record in records]
        self._ids = count(900_000)

    def forge(self, **having: Any) -> list[Record]:
        """Return the forge's events with these fields."""
        events = [x for x in self.r if x["record"] == "forge"]
        return [x for x in events if all(x.get(key) == value for key, value in having.items())]

    def add(self, at: str, **given: Any) -> None:
        """Add an event of the forge."""
        event: Record = dict.fromkeys(_FIELDS)
        event |= {"record": "forge", "host": self.forge()[0]["host"], "id": next(self._ids), "at": at}
        self.r.append(event | given)

    def drop(self, records: list[Record]) -> None:
        """Remove records, of which there must be some."""
        gone = {id(x) for x in records}
        assert gone
        self.r = [x for x in self.r if id(x) not in gone]

    def item(self, repository: str, number: int, **having: Any) -> list[Record]:
        return [x for x in self.forge(repository=repository, number=number, **having) if x["kind"] == "issue"]

    def comments(self, repository: str, number: int) -> list[Record]:
        """Return how the bot wrote and edited its comment on an issue."""
        found = [*self.item(repository, number, actor=BOT)]
        return [x for x in found if x["event"] in ("commented", "comment_edited")]

    def done(self, number: int) -> list[Record]:
        return [x for x in self.comments(P, number) if '"phase":"Succeeded"' in x["body"]]

    def change(self) -> Record:
        """Return the event with which the bot opened the change of issue 2."""
        return self.forge(event="opened", kind="change", branch="coding-agent/issue-2")[0]

    def drop_models(self, number: int) -> None:
        """Remove all requests to the model about an issue."""
        title = self.item(P, number, event="opened")[0]["title"]
        self.drop([x for x in self.r if x["record"] == "model" and x["title"] == title])

    def later(self, seconds: float) -> str:
        """Return a time after the start."""
        return t(self.forge()[0]["at"], seconds=seconds)

    def on_issue(self, at: str, event: str, number: int, *, repository: str = P, **given: Any) -> None:
        """Let the bot do something on an issue."""
        self.add(at, event=event, kind="issue", actor=BOT, repository=repository, number=number, **given)

    def on_change(self, at: str, event: str, **given: Any) -> None:
        """Let the bot do something on the change of issue 2."""
        number = self.change()["number"]
        self.add(at, event=event, kind="change", actor=BOT, repository=P, number=number, **given)

    def push(self, at: str, branch: str, before: str, after: str) -> None:
        """Let the bot push."""
        self.add(at, event="pushed", actor=BOT, repository=P, branch=branch, before=before, after=after)

    def audits(self, verb: str, resource: str, sub: str | None = None, who: str = "") -> list[Record]:
        """Return the API server's audit events."""
        return [
            x
            for x in self.r
            if x["record"] == "audit"
            and (x["verb"], x["objectRef"]["resource"]) == (verb, resource)
            and x["objectRef"].get("subresource") == sub
            and who in x["user"]["username"]
        ]

    def records(self) -> list[Record]:
        """Return the records in the order in which a run writes them."""
        forge = sorted((x for x in self.r if x["record"] == "forge"), key=_when)
        for number, event in enumerate(forge, 1):
            event["id"] = number
        audit = sorted((x for x in self.r if x["record"] == "audit"), key=_when)
        return [*forge, *audit, *(x for x in self.r if x["record"] not in ("forge", "audit"))]


@wrong(RABBITMQ)
def success_without_push_or_change(h: Changed) -> None:
    h.drop(h.forge(branch="coding-agent/issue-2"))


@wrong(RABBITMQ)
def success_without_a_model_request(h: Changed) -> None:
    h.drop_models(I2)


@wrong(RABBITMQ)
def bot_pushes_to_main(h: Changed) -> None:
    p = next(iter(h.forge(event="pushed", actor=BOT)))
    h.add(
        t(p["at"], seconds=1),
        event="pushed",
        actor=BOT,
        repository=p["repository"],
        branch="main",
        before="1" * 40,
        after="2" * 40,
    )


@wrong(RABBITMQ)
def bot_pushes_to_a_persons_branch(h: Changed) -> None:
    p = h.forge(event="pushed", actor=BOT)[0]
    h.add(
        t(p["at"], seconds=1),
        event="pushed",
        actor=BOT,
        repository=p["repository"],
        branch="feature/x",
        before="1" * 40,
        after="2" * 40,
    )


@wrong(RABBITMQ)
def bot_pushes_after_the_end(h: Changed) -> None:
    d = h.done(I2)[-1]
    h.push(
        t(d["at"], seconds=70),
        "coding-agent/issue-2",
        h.forge(event="pushed", branch="coding-agent/issue-2")[-1]["after"],
        "3" * 40,
    )


@wrong(RABBITMQ)
def bot_pushes_a_branch_for_an_issue_without_label(h: Changed) -> None:
    h.add(
        h.later(90),
        event="pushed",
        actor=BOT,
        repository="acme/shipping",
        branch="coding-agent/issue-1",
        before="0" * 40,
        after="4" * 40,
    )


@wrong(RABBITMQ)
def second_open_change_from_another_branch(h: Changed) -> None:
    c = next(iter(h.forge(event="opened", kind="change", branch="coding-agent/issue-2")))
    h.push(t(c["at"], seconds=1), "coding-agent/issue-2-r2", "0" * 40, "5" * 40)
    h.add(
        t(c["at"], seconds=2),
        **{k: c[k] for k in ("event", "kind", "actor", "repository", "base", "body", "title")},
        branch="coding-agent/issue-2-r2",
        number=77,
    )


@wrong(RABBITMQ)
def change_opened_in_another_repository(h: Changed) -> None:
    c = h.change()
    c["repository"] = "acme/shipping"


@wrong(RABBITMQ)
def bot_merges_its_change(h: Changed) -> None:
    c = h.change()
    h.on_change(t(c["at"], seconds=30), "merged")


@wrong(RABBITMQ)
def bot_closes_the_issue(h: Changed) -> None:
    h.on_issue(t(h.done(I2)[-1]["at"], seconds=3), "closed", I2)


@wrong(RABBITMQ)
def bot_reopens_an_issue(h: Changed) -> None:
    r = h.forge(event="reopened")[0]
    r["actor"] = BOT


@wrong(RABBITMQ)
def second_comment_without_hidden_line(h: Changed) -> None:
    c = h.comments(P, I2)[0]
    h.on_issue(t(c["at"], seconds=5), "commented", I2, comment=5551, body="I am still working on it.")


@wrong(RABBITMQ)
def second_comment_with_hidden_line(h: Changed) -> None:
    c = h.done(I2)[-1]
    h.on_issue(t(c["at"], seconds=5), "commented", I2, comment=5552, body=c["body"])


@wrong(RABBITMQ)
def comment_on_an_item_that_nobody_labeled(h: Changed) -> None:
    h.on_issue(h.later(80), "commented", 1, repository="acme/shipping", comment=5553, body="Can I help?")


@wrong(RABBITMQ)
def comment_names_another_issues_change(h: Changed) -> None:
    for x in h.done(I2):
        x["body"] = x["body"].replace("/pull/5", "/pull/3")


@wrong(RABBITMQ)
def done_label_without_a_run(h: Changed) -> None:
    h.on_issue(h.later(80), "labeled", 1, repository="acme/shipping", label="coding agent done")


@wrong(RABBITMQ)
def processing_label_stays_at_the_end(h: Changed) -> None:
    h.drop(list(h.item(P, I2, event="unlabeled", label="coding agent processing", actor=BOT))[-1:])


@wrong(RABBITMQ)
def done_label_is_missing(h: Changed) -> None:
    h.drop(h.item(P, I2, event="labeled", label="coding agent done"))


@wrong(RABBITMQ)
def bot_applies_the_label_itself(h: Changed) -> None:
    h.on_issue(h.later(85), "labeled", 1, repository="acme/shipping", label="coding agent")


@wrong(RABBITMQ)
def bot_removes_a_persons_label(h: Changed) -> None:
    d = h.done(I2)[-1]
    h.on_issue(t(d["at"], seconds=1), "unlabeled", I2, label="bug")


@wrong(RABBITMQ)
def bot_adds_a_foreign_label(h: Changed) -> None:
    d = h.done(I2)[-1]
    h.on_issue(t(d["at"], seconds=1), "labeled", I2, label="wontfix")


@wrong(RABBITMQ)
def a_label_is_lost(h: Changed) -> None:
    h.drop([x for x in h.item(P, I2) if x["actor"] == BOT] + h.forge(branch="coding-agent/issue-2"))
    h.drop_models(I2)


@wrong(RABBITMQ)
def a_label_is_taken_off_without_a_run(h: Changed) -> None:
    a_label_is_lost(h)
    applied = h.item(P, I2, event="labeled")[0]
    h.on_issue(t(applied["at"], seconds=4), "unlabeled", I2, label="coding agent")


def _again(h: Changed, number: int, later: float, uuid: str) -> None:
    """Play the bot's acts on a done item once more, as those of run 2."""
    branch = f"coding-agent/issue-{number}"
    acts = [
        *h.item(P, number, actor=BOT),
        h.forge(event="pushed", actor=BOT, branch=branch, repository=P)[-1],
    ]
    for x in acts:
        y = copy.deepcopy(x)
        y["at"] = t(x["at"], seconds=later)
        if y.get("body"):
            y["body"] = re.sub(r'"uuid":"[^"]+","run":\d+', f'"uuid":"{uuid}","run":2', y["body"])
            y["event"] = "comment_edited"
        if y["event"] == "pushed":
            y["before"], y["after"] = x["after"], "6" * 40
        h.add(**{k: v for k, v in y.items() if k not in ("record", "host", "id")})


@wrong(RABBITMQ)
def second_run_minutes_later_that_nobody_asked_for(h: Changed) -> None:
    _again(h, I2, 100, "11111111-1111-4111-8111-111111111111")


@wrong(RABBITMQ)
def second_run_beside_the_first(h: Changed) -> None:
    _again(h, I2, 9, "11111111-1111-4111-8111-111111111112")


@wrong(RABBITMQ)
def a_run_number_is_skipped(h: Changed) -> None:
    for x in h.comments(P, I7):
        x["body"] = x["body"].replace('"run":2', '"run":4').replace("3f0578c3-r2", "3f0578c3-r4")


@wrong(RABBITMQ)
def an_attempt_after_the_last(h: Changed) -> None:
    for x in h.comments(P, I2):
        x["body"] = (
            x["body"].replace('"attempt":1', '"attempt":4').replace("attempt 1 of 3", "attempt 4 of 3")
        )


@wrong(RABBITMQ)
def an_ended_run_works_again(h: Changed) -> None:
    d = h.done(I2)[-1]
    w = h.comments(P, I2)[0]
    h.on_issue(t(d["at"], seconds=60), "comment_edited", I2, comment=d["comment"], body=w["body"])


@wrong(RABBITMQ)
def cancelled_run_gets_the_done_label(h: Changed) -> None:
    c = h.comments(P, I4)[-1]
    h.on_issue(t(c["at"], seconds=1), "labeled", I4, label="coding agent done")


@wrong(RABBITMQ)
def failed_run_keeps_the_done_label(h: Changed) -> None:
    for x in h.done(I2):
        x["body"] = (
            x["body"]
            .replace(
                '"phase":"Succeeded","reason":"Completed"', '"phase":"Failed","reason":"ModelUnavailable"'
            )
            .replace("agent: done", "agent: failed")
            .replace("Succeeded at", "Failed at")
        )


@wrong(RABBITMQ)
def a_run_fails_without_a_reason_in_the_world(h: Changed) -> None:
    failed_run_keeps_the_done_label(h)
    h.drop(h.item(P, I2, event="labeled", label="coding agent done"))
    h.drop(h.forge(branch="coding-agent/issue-2"))
    h.drop_models(I2)


@wrong(RABBITMQ)
def work_for_somebody_without_rights(h: Changed) -> None:
    for x in h.item(P, I2):
        x["actor"] = "mallory" if x["actor"] == "alice" else x["actor"]


@wrong(RABBITMQ)
def a_strangers_cancel_stops_a_run(h: Changed) -> None:
    for x in h.item(P, I4):
        if x["actor"] == "carol" and x["event"] == "commented":
            x["actor"] = "mallory"
    for x in h.r:
        if x["record"] == "act" and x["kind"] == "/cancel":
            x["actor"] = "mallory"
            x["kind"] = "/cancel of a stranger"


@wrong(RABBITMQ)
def a_strangers_run_command_starts_a_run(h: Changed) -> None:
    for x in h.item(P, I7):
        if x.get("body") == "/run":
            x["actor"] = "mallory"
    for x in h.r:
        if x["record"] == "act" and x["kind"] == "/run":
            x["actor"] = "mallory"


@wrong(RABBITMQ)
def a_members_cancel_is_ignored(h: Changed) -> None:
    c = next(x for x in h.item(P, I4) if x["actor"] == "carol" and x["event"] == "commented")
    h.drop([x for x in h.item(P, I4) if x["actor"] == BOT and x["at"] > c["at"]])
    w = h.comments(P, I4)[-1]
    body = (
        w["body"]
        .replace('"phase":"Running"', '"phase":"Succeeded","reason":"Completed"')
        .replace("working on it", "done")
    )
    h.push(t(c["at"], seconds=40), "coding-agent/issue-4", "0" * 40, "7" * 40)
    h.add(
        t(c["at"], seconds=41),
        event="opened",
        kind="change",
        actor=BOT,
        repository=P,
        number=78,
        branch="coding-agent/issue-4",
        base="main",
        body="Closes #4",
        title="x",
    )
    h.on_issue(
        t(c["at"], seconds=42),
        "comment_edited",
        I4,
        comment=w["comment"],
        body=body.replace('"user"', '"change_url":"http://' + w["host"] + '/acme/pricing/pull/78","user"'),
    )
    h.on_issue(t(c["at"], seconds=43), "labeled", I4, label="coding agent done")
    h.on_issue(t(c["at"], seconds=44), "unlabeled", I4, label="coding agent processing")


@wrong(RABBITMQ)
def a_push_long_after_a_cancel(h: Changed) -> None:
    c = h.comments(P, I4)[-1]
    h.push(t(c["at"], seconds=45), "coding-agent/issue-4", "0" * 40, "8" * 40)


@wrong(RABBITMQ)
def closing_an_issue_does_not_stop_it(h: Changed) -> None:
    w = h.comments(P, I2)[0]
    h.add(t(w["at"], seconds=3), event="closed", kind="issue", actor="alice", repository=P, number=I2)


@wrong(RABBITMQ)
def bot_deletes_its_branch(h: Changed) -> None:
    p = h.forge(event="pushed", branch="coding-agent/issue-2")[-1]
    h.push(t(h.done(I2)[-1]["at"], seconds=20), "coding-agent/issue-2", p["after"], "0" * 40)


@wrong(RABBITMQ)
def bot_overwrites_a_persons_push(h: Changed) -> None:
    p = h.forge(event="pushed", branch="coding-agent/issue-1", repository=P, actor=BOT)[-1]
    h.add(
        t(p["at"], seconds=-1),
        event="pushed",
        actor="alice",
        repository=P,
        branch="coding-agent/issue-1",
        before=p["before"],
        after="9" * 40,
    )


@wrong(RABBITMQ)
def status_on_a_commit_that_nobody_pushed(h: Changed) -> None:
    h.add(
        t(h.done(I2)[-1]["at"], seconds=1),
        event="check",
        actor=BOT,
        repository=P,
        check="coding-agent",
        commit="e" * 40,
        state="success",
        body="",
    )


@wrong(RABBITMQ)
def a_reply_in_a_thread_that_nobody_began(h: Changed) -> None:
    c = h.change()
    h.on_change(t(c["at"], seconds=40), "commented", comment=5554, thread=9, body="Done.")


@wrong(RABBITMQ)
def bot_requests_a_review(h: Changed) -> None:
    c = h.change()
    h.on_change(t(c["at"], seconds=40), "review_requested", reviewer="bob")


@wrong(RABBITMQ)
def bot_approves_its_change(h: Changed) -> None:
    c = h.change()
    h.on_change(t(c["at"], seconds=40), "reviewed", review=3, state="approved", body="")


@wrong(RABBITMQ)
def bot_edits_a_persons_comment(h: Changed) -> None:
    c = next(x for x in h.item(P, I4) if x["actor"] == "carol" and x["event"] == "commented")
    h.on_issue(t(c["at"], seconds=2), "comment_edited", I4, comment=c["comment"], body="(removed)")


@wrong(RABBITMQ)
def a_run_never_ends(h: Changed) -> None:
    d = h.done(I2)[0]
    h.drop(
        [x for x in h.item(P, I2) if x["actor"] == BOT and x["at"] >= d["at"]]
        + h.forge(branch="coding-agent/issue-2")
    )


@wrong(RABBITMQ)
def the_model_is_asked_after_the_end(h: Changed) -> None:
    title = h.item(P, I2, event="opened")[0]["title"]
    m = [x for x in h.r if x["record"] == "model" and x["title"] == title][-1]
    h.r.append({**m, "at": t(h.done(I2)[-1]["at"], seconds=60), "position": m["position"] + 1})


@wrong(RABBITMQ)
def the_model_is_asked_for_an_item_without_label(h: Changed) -> None:
    title = h.forge(repository="acme/shipping", number=1, event="opened")[0]["title"]
    h.r.append(
        {
            "record": "model",
            "at": h.later(85),
            "title": title,
            "script": "works",
            "position": 0,
            "status": 200,
        }
    )


@wrong(RABBITMQ)
def bot_opens_an_issue(h: Changed) -> None:
    h.on_issue(h.later(85), "opened", 79, title="Found a bug", body="Look.")


@wrong(RABBITMQ)
def change_into_another_base(h: Changed) -> None:
    h.change()["base"] = "release"


@wrong(RABBITMQ)
def change_closes_another_issue(h: Changed) -> None:
    c = h.change()
    c["body"] = c["body"].replace("Closes #2", "Closes #1")


@wrong(RABBITMQ)
def change_from_a_branch_that_was_never_pushed(h: Changed) -> None:
    h.drop(list(h.forge(event="pushed", branch="coding-agent/issue-2")))


@wrong(RABBITMQ)
def bot_closes_its_change(h: Changed) -> None:
    c = h.change()
    h.on_change(t(c["at"], seconds=50), "closed")


@wrong(RABBITMQ)
def one_run_works_for_two_uuids(h: Changed) -> None:
    c = h.done(I7)[-1]
    c["body"] = re.sub(r'"uuid":"[^"]+"', '"uuid":"22222222-2222-4222-8222-222222222222"', c["body"])


@wrong(RABBITMQ)
def the_first_sign_comes_after_minutes(h: Changed) -> None:
    for x in [x for x in h.item(P, I7) if x["actor"] == BOT] + [
        x for x in h.r if x.get("branch") == "coding-agent/issue-7"
    ]:
        if x["record"] == "forge":
            x["at"] = t(x["at"], minutes=8)


def _renamed(event: Record, *names: tuple[str, str]) -> Record:
    """Return an audit event of its own, with other names."""
    text = json.dumps(event)
    for old, new in names:
        text = text.replace(old, new)
    renamed: Record = json.loads(text)
    renamed["auditID"] = "0" * 8 + event["auditID"][8:]
    return renamed


def _at(event: Record, seconds: float) -> Record:
    later = t(event["requestReceivedTimestamp"].replace("Z", "+00:00"), seconds=seconds)
    return event | {"requestReceivedTimestamp": later, "stageTimestamp": later}


@wrong(KUBERNETES)
def receiver_creates_a_task_for_nothing(h: Changed) -> None:
    a = h.audits("create", "agenttasks", who="receiver")[0]
    name = a["objectRef"]["name"]
    y = _renamed(a, (name, "billing-issue-99-0000000000000000"), ('"number": 1,', '"number": 99,'))
    h.r.append(_at(y, 20))


@wrong(KUBERNETES)
def a_second_task_for_one_label(h: Changed) -> None:
    a = h.audits("create", "agenttasks", who="receiver")[0]
    n = a["objectRef"]["name"]
    y = _renamed(a, (n, n + "-r2"), ('"run": 1', '"run": 2'), ("49a410a6", "59a410a6"))
    h.r.append(_at(y, 2))


@wrong(KUBERNETES)
def two_attempts_of_a_run_at_once(h: Changed) -> None:
    job = h.audits("create", "jobs")[1]
    name, uid = job["objectRef"]["name"], job["responseObject"]["metadata"]["uid"]
    second = ((name, name[:-1] + "2"), ('attempt": "1"', 'attempt": "2"'), (uid, "7" + uid[1:]))
    pod = next(x for x in h.audits("create", "pods") if name in json.dumps(x))
    pod_uid = pod["responseObject"]["metadata"].get("uid", "x")
    h.r.append(_at(_renamed(job, *second), 2))
    h.r.append(_at(_renamed(pod, *second, (pod_uid, "8" + pod_uid[1:])), 3))


@wrong(KUBERNETES)
def a_job_without_a_task(h: Changed) -> None:
    j = h.audits("create", "jobs")[0]
    n = j["objectRef"]["name"]
    h.r.append(_at(_renamed(j, (n[:-2], "ghost-issue-5-1111111111111111")), 9))


@wrong(KUBERNETES)
def an_ended_task_runs_again_in_its_status(h: Changed) -> None:
    patches = h.audits("patch", "agenttasks", "status", "operator")
    running = next(x for x in patches if '"phase": "Running"' in json.dumps(x["requestObject"]))
    last = [x for x in patches if x["objectRef"]["name"] == running["objectRef"]["name"]][-1]
    when = {"requestReceivedTimestamp": last["requestReceivedTimestamp"]}
    h.r.append(_at(_renamed(running) | when, 5))


@wrong(KUBERNETES)
def a_cancelled_tasks_pod_is_never_stopped(h: Changed) -> None:
    h.drop(h.audits("delete", "jobs") + h.audits("delete", "pods"))
