"""Snapshots of our open changes, as both forges show them: each row is one thing that happens to a change."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.changes import (
    ActorKind,
    ChangeEventKind,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckState,
    Mergeability,
    ReviewVerdict,
)
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Report, State, comment
from coding_agent_core.rounds.scan import ChangeRounds, show_on_issue
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.model import Item, Phase
from coding_agent_forges.github import changes
from coding_agent_forges.github.change_responses import OLDER, OLDER_REMARKS
from coding_agent_forges.github.discussion import graphql_url
from coding_agent_forges.rest.calls import Call
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.git import branch_sha, git
from coding_agent_testbed.until import until_async

from tests.fixtures.forge import REPOSITORY, plant_fault
from tests.fixtures.github_graphql import validate_exchange
from tests.integration.forges.conftest import BRANCH, World

BOT = "coding-agent-bot"
FILE = "numbers.txt"
NUMBERED = "".join(f"line {number}\n" for number in range(1, 21))
TWELVE = NUMBERED.replace("line 12\n", "line twelve\n")
on_github = pytest.mark.parametrize("world", ["github"], indirect=True)
on_gitlab = pytest.mark.parametrize("world", ["gitlab"], indirect=True)


@dataclass
class Ours:
    """A change that our account opened, and what people do to it."""

    world: World
    number: int

    @property
    def server(self) -> ForgeServer:
        return self.world.server

    @property
    def github(self) -> bool:
        return self.world.platform is Platform.GITHUB

    @property
    def item(self) -> Item:
        return self.world.item(ItemKind.CHANGE, self.number)

    @property
    def head(self) -> str:
        return self.server.item(REPOSITORY, self.number, "change").tips.head_sha

    @property
    def base(self) -> str:
        return branch_sha(self.server.repository(REPOSITORY).path, "main") or ""

    def review(self, state: str, text: str = "", by: str = "alice") -> None:
        self.server.review(REPOSITORY, self.number, state, text, by=by)

    def thread(self, text: str = "Say a dozen.", line: int | None = 12) -> None:
        self.server.start_thread(REPOSITORY, self.number, text, path=FILE, line=line, by="alice")

    def reply(self, text: str, by: str) -> None:
        [thread] = self.server.sandbox.reviews.threads(self.server.item(REPOSITORY, self.number, "change"))
        self.server.reply(thread, text, by=by)

    def resolve(self) -> None:
        [thread] = self.server.sandbox.reviews.threads(self.server.item(REPOSITORY, self.number, "change"))
        self.server.resolve(thread, by="alice")

    def check(self, name: str, result: str = "", **more: object) -> None:
        self.server.add_check(REPOSITORY, self.head, name, result, **{"log": b"", **more})

    async def snapshot(self) -> ChangeSnapshot:
        """The change as the list of open changes shows it, and by itself: both are the same."""
        [listed] = (await self.world.forge.open_changes()).snapshots
        alone = await self.world.forge.snapshot(self.item)
        other = {"read_at": None}
        if listed.mergeability is Mergeability.MERGES:
            other |= {"base_commit": None}  # GitLab's base is read only when something depends on it
        assert {**vars(alone), **other} == {**vars(listed), **other}
        return listed


def open_ours(server: ForgeServer, branch: str = BRANCH) -> int:
    server.push(REPOSITORY, branch, {FILE: TWELVE}, by=BOT)
    return server.open_change(REPOSITORY, branch, "main", title="Say twelve", by=BOT)


@pytest.fixture
async def ours(world: World) -> Ours:
    """Beside it somebody else's change is open."""

    def opened() -> int:
        world.server.push(REPOSITORY, "main", {FILE: NUMBERED})
        world.server.push(REPOSITORY, "theirs", {"other.txt": "Theirs\n"}, by="alice")
        world.server.open_change(REPOSITORY, "theirs", "main", by="alice")
        return open_ours(world.server)

    number = await asyncio.to_thread(opened)
    # What the vendors compute in the background is known here, except where a test says otherwise.
    world.server.sandbox.mergeability_lag = 0
    return Ours(world, number)


async def test_a_change_to_which_nothing_happened(ours: Ours) -> None:
    found = await ours.snapshot()
    own = ours.server.user(BOT)
    assert (found.item, found.state, found.title) == (ours.item, ChangeState.OPEN, "Say twelve")
    assert found.url == ours.server.sandbox.url_of(
        ours.server.repository(REPOSITORY), ours.server.item(REPOSITORY, ours.number, "change")
    )
    assert (found.own.id, found.author.id) == (str(own.id), str(own.id))
    assert (found.head_branch, found.head_commit) == (BRANCH, ours.head)
    assert (found.base_branch, found.base_commit) == ("main", ours.base)
    assert (found.draft, found.mergeability) == (False, Mergeability.MERGES)
    assert (found.threads, found.reviews, found.comments, found.checks) == ((), (), (), ())
    assert (found.checks_problem, found.left_out, found.requested_reviewers) == ("", frozenset(), ())
    assert found.created_at <= found.updated_at <= found.read_at
    assert (found.head_at is None) == ours.github, "GitHub does not say when a branch was pushed to"


Act = Callable[[Ours], object]
Shows = Callable[[Ours, ChangeSnapshot], object]


def verdicts(found: ChangeSnapshot) -> list[tuple[str, ReviewVerdict]]:
    return [(review.author.login, review.verdict) for review in found.reviews]


def texts(found: ChangeSnapshot) -> list[str]:
    """What people wrote to the change as a whole: GitLab has it as plain comments."""
    return [review.body for review in found.reviews if review.body] + [one.body for one in found.comments]


def said_when(ours: Ours, found: ChangeSnapshot) -> list[tuple[str, ChangeEventKind]]:
    """The verdicts of which a time is known: GitLab has the times in its own notes."""
    if ours.github:
        kinds = {
            ReviewVerdict.APPROVED: ChangeEventKind.APPROVED,
            ReviewVerdict.CHANGES_REQUESTED: ChangeEventKind.CHANGES_REQUESTED,
        }
        return [(one.author.login, kinds[one.verdict]) for one in found.reviews if one.submitted_at]
    return [(one.actor.login, one.kind) for one in found.events if one.actor is not None]


def asked(found: ChangeSnapshot) -> list[tuple[str, str]]:
    """Who asked whom for a review, as GitLab's notes say."""
    events = [one for one in found.events if one.kind is ChangeEventKind.REVIEW_REQUESTED]
    return [(one.actor.login, one.reviewer) for one in events if one.actor is not None]


def checks(found: ChangeSnapshot) -> dict[str, tuple[CheckState, CheckConclusion | None]]:
    return {check.name: (check.state, check.conclusion) for check in found.checks}


def ended(conclusion: CheckConclusion) -> tuple[CheckState, CheckConclusion]:
    return CheckState.COMPLETED, conclusion


def job(ours: Ours, name: str) -> str:
    return f"CI / {name}" if ours.github else f"test / {name}"


REVIEW: dict[str, tuple[list[Act], Shows]] = {
    "a comment on a line": (
        [lambda ours: ours.thread()],
        lambda ours, found: (
            [
                (one.path, one.line, one.resolved, one.outdated, one.remarks[0].body, one.remarks[0].commit)
                for one in found.threads
            ]
            == [(FILE, 12, False, False, "Say a dozen.", ours.head)]
        ),
    ),
    "its author": (
        [lambda ours: ours.thread()],
        lambda ours, found: (
            (author := found.threads[0].remarks[0].author)
            and (author.id, author.login) == (str(ours.server.user("alice").id), "alice")
            and author.kind is ActorKind.PERSON
            and author.member is (False if ours.github else None)
        ),
    ),
    "a comment on a whole file": (
        [lambda ours: ours.thread(line=None)],
        lambda _, found: [(one.path, one.line) for one in found.threads] == [(FILE, None)],
    ),
    "our answer in the thread": (
        [lambda ours: ours.thread(), lambda ours: ours.reply("Done.", BOT)],
        lambda _, found: (
            [(one.body, one.author.id == found.own.id) for one in found.threads[0].remarks]
            == [("Say a dozen.", False), ("Done.", True)]
        ),
    ),
    "a resolved thread": (
        [lambda ours: ours.thread(), lambda ours: ours.resolve()],
        lambda _, found: [one.resolved for one in found.threads] == [True],
    ),
    "a thread whose line was changed": (
        [
            lambda ours: ours.thread(),
            lambda ours: ours.server.push(REPOSITORY, BRANCH, {FILE: NUMBERED.replace("line 12", "dozen")}),
        ],
        lambda _, found: [one.outdated for one in found.threads] == [True],
    ),
    "a thread whose line we changed": (
        [
            lambda ours: ours.thread(),
            lambda ours: ours.server.push(
                REPOSITORY, BRANCH, {FILE: NUMBERED.replace("line 12", "dozen")}, by=BOT
            ),
        ],
        lambda ours, found: (
            ([one.outdated for one in found.threads] == [True])
            and (
                found.threads[0].remarks[0].commit in found.replaced_by_us
                if ours.github
                else [(one.kind, one.actor and one.actor.login) for one in found.events]
                == [(ChangeEventKind.PUSHED, BOT)]
                and int(found.threads[0].remarks[0].id) < (found.events[0].number or 0)
            )
        ),
    ),
    "requested changes": (
        [lambda ours: ours.review("CHANGES_REQUESTED", "Not yet.")],
        lambda ours, found: (
            verdicts(found) == [("alice", ReviewVerdict.CHANGES_REQUESTED)]
            and texts(found) == ["Not yet."]
            and said_when(ours, found) == [("alice", ChangeEventKind.CHANGES_REQUESTED)]
        ),
    ),
    "changes requested twice without a word": (
        [lambda ours: ours.review("CHANGES_REQUESTED"), lambda ours: ours.review("CHANGES_REQUESTED")],
        lambda ours, found: said_when(ours, found) == [("alice", ChangeEventKind.CHANGES_REQUESTED)] * 2,
    ),
    "an approval": (
        [lambda ours: ours.review("APPROVED")],
        lambda ours, found: (
            verdicts(found) == [("alice", ReviewVerdict.APPROVED)]
            and texts(found) == []
            and said_when(ours, found) == [("alice", ChangeEventKind.APPROVED)]
        ),
    ),
    "a review that only comments": (
        [lambda ours: ours.review("COMMENTED", "Well.")],
        lambda _, found: (
            verdicts(found) == [("alice", ReviewVerdict.COMMENTED)] and texts(found) == ["Well."]
        ),
    ),
    "a review that is asked for": (
        [lambda ours: ours.server.request_review(REPOSITORY, ours.number, "reader")],
        lambda _, found: (
            [one.login for one in found.requested_reviewers] == ["reader"] and verdicts(found) == []
        ),
    ),
    "a review that is asked for again": (
        [
            lambda ours: ours.review("CHANGES_REQUESTED"),
            lambda ours: ours.server.request_review(REPOSITORY, ours.number, "alice", by=BOT),
        ],
        lambda ours, found: (
            [one.login for one in found.requested_reviewers] == ["alice"]
            and (ours.github or asked(found) == [(BOT, "alice")])
        ),
    ),
    "a review of somebody who has approved": (
        [
            lambda ours: ours.review("APPROVED"),
            lambda ours: ours.server.request_review(REPOSITORY, ours.number, "alice", by=BOT),
        ],
        lambda ours, found: (
            [one.login for one in found.requested_reviewers] == ["alice"]
            and (ours.github or asked(found) == [(BOT, "alice")])
        ),
    ),
    "a plain comment": (
        [lambda ours: ours.server.comment(REPOSITORY, ours.number, "Hello", kind="change")],
        lambda _, found: [(one.author.login, one.body) for one in found.comments] == [("alice", "Hello")],
    ),
}
STATE: dict[str, tuple[list[Act], Shows]] = {
    "a label": (
        [lambda ours: ours.server.add_label(REPOSITORY, ours.number, "bug", kind="change", by="alice")],
        lambda _, found: (
            found.labels == {"bug"}
            and [(one.kind, one.label, one.actor and one.actor.login) for one in found.events]
            == [(ChangeEventKind.LABELED, "bug", "alice")]
        ),
    ),
    "a label taken off": (
        [
            lambda ours: ours.server.add_label(REPOSITORY, ours.number, "bug", kind="change"),
            lambda ours: ours.server.remove_label(REPOSITORY, ours.number, "bug", kind="change"),
        ],
        lambda _, found: found.labels == frozenset() and found.events[-1].kind is ChangeEventKind.UNLABELED,
    ),
    "closed and opened again": (
        [
            lambda ours: ours.server.close(REPOSITORY, ours.number, kind="change"),
            lambda ours: ours.server.reopen(REPOSITORY, ours.number, kind="change"),
        ],
        lambda _, found: [one.kind for one in found.events] == [ChangeEventKind.REOPENED],
    ),
    "pushed to while it was closed": (
        [
            lambda ours: ours.server.close(REPOSITORY, ours.number, kind="change"),
            lambda ours: ours.server.push(REPOSITORY, BRANCH, {"more.txt": "More\n"}, by="alice"),
            lambda ours: ours.server.reopen(REPOSITORY, ours.number, kind="change"),
        ],
        lambda ours, found: (
            found.head_commit == branch_sha(ours.server.repository(REPOSITORY).path, BRANCH)
            and ChangeEventKind.REOPENED in [one.kind for one in found.events]
        ),
    ),
    "opened again without its branch": (
        [
            lambda ours: ours.server.close(REPOSITORY, ours.number, kind="change"),
            lambda ours: git(ours.server.repository(REPOSITORY).path, "branch", "-D", BRANCH),
            lambda ours: ours.server.reopen(REPOSITORY, ours.number, kind="change"),
        ],
        lambda ours, found: (found.head_commit, found.state) == (ours.head, ChangeState.OPEN),
    ),
    "a draft": (
        [lambda ours: ours.server.set_draft(REPOSITORY, ours.number, draft=True, by="alice")],
        lambda _, found: (
            (found.draft, found.title, *((one.kind, one.actor and one.actor.login) for one in found.events))
            == (True, "Say twelve", (ChangeEventKind.DRAFTED, "alice"))
        ),
    ),
    "a draft that became ready": (
        [
            lambda ours: ours.server.set_draft(REPOSITORY, ours.number, draft=True),
            lambda ours: ours.server.set_draft(REPOSITORY, ours.number, draft=False),
        ],
        lambda _, found: (
            (found.draft, found.title, *(one.kind for one in found.events))
            == (False, "Say twelve", ChangeEventKind.DRAFTED, ChangeEventKind.READY)
        ),
    ),
    "a person's push": (
        [lambda ours: ours.server.push(REPOSITORY, BRANCH, {"more.txt": "More\n"}, by="alice")],
        lambda ours, found: (
            found.head_commit == ours.head
            and len(found.replaced_by_us) == ours.github  # our own first commit
            and found.head_at is not None
            and [one.kind for one in found.events if one.actor and one.actor.login == "alice"]
            == [ChangeEventKind.PUSHED]
        ),
    ),
    "our push after a person's": (
        [
            lambda ours: ours.server.push(REPOSITORY, BRANCH, {"more.txt": "More\n"}, by="alice"),
            lambda ours: ours.server.push(REPOSITORY, BRANCH, {"more.txt": "Less\n"}, by=BOT),
        ],
        lambda ours, found: (
            [one.actor.login for one in found.events if one.actor and one.kind is ChangeEventKind.PUSHED][-2:]
            == ["alice", BOT]
        ),
    ),
    "a conflict": (
        [lambda ours: ours.server.push(REPOSITORY, "main", {FILE: NUMBERED.replace("line 12", "12")})],
        lambda ours, found: (found.mergeability, found.base_commit) == (Mergeability.CONFLICT, ours.base),
    ),
    "a base that moved without a conflict": (
        [lambda ours: ours.server.push(REPOSITORY, "main", {"other.txt": "Other\n"})],
        lambda _, found: found.mergeability is Mergeability.MERGES,
    ),
    "the base merged into it": (
        [
            lambda ours: ours.server.push(REPOSITORY, "main", {"other.txt": "Other\n"}),
            lambda ours: ours.server.update_branch(REPOSITORY, ours.number),
        ],
        lambda ours, found: (found.mergeability, found.head_commit) == (Mergeability.MERGES, ours.head),
    ),
}
CHECKS: dict[str, tuple[list[Act], Shows]] = {
    "a check that runs": (
        [lambda ours: ours.check("unit")],
        lambda ours, found: checks(found) == {job(ours, "unit"): (CheckState.RUNNING, None)},
    ),
    "a check that failed": (
        [lambda ours: ours.check("unit"), lambda ours: ours.check("unit", "failure", summary="1 failed")],
        lambda ours, found: (
            checks(found) == {job(ours, "unit"): ended(CheckConclusion.FAILURE)}
            and (found.checks[0].errors, found.checks[0].kind)
            == ("1 failed" if ours.github else "", CheckKind.JOB)
            and found.checks[0].completed_at is not None
        ),
    ),
    "checks with other ends": (
        [
            lambda ours: ours.check("a", "success"),
            lambda ours: ours.check("b", "skipped"),
            lambda ours: ours.check("c", "cancelled"),
            lambda ours: ours.check("d", "action_required"),
        ],
        lambda ours, found: (
            checks(found)
            == {
                job(ours, "a"): ended(CheckConclusion.SUCCESS),
                job(ours, "b"): ended(CheckConclusion.SKIPPED),
                job(ours, "c"): ended(CheckConclusion.CANCELLED),
                job(ours, "d"): ended(CheckConclusion.ACTION_REQUIRED),
            }
        ),
    ),
    "a check that runs again": (
        [
            lambda ours: ours.check("unit", "failure"),
            lambda ours: ours.server.rerun(
                REPOSITORY, ours.server.sandbox.reviews.checks(ours.server.repository(REPOSITORY))[0]
            ),
        ],
        lambda ours, found: (
            checks(found) == {job(ours, "unit"): (CheckState.WAITING, None)}
            and found.checks[0].earlier == (() if ours.github else (CheckConclusion.FAILURE,))
        ),
    ),
    "a status that waits": (
        [lambda ours: ours.check("deploy", log=None)],
        lambda ours, found: (
            [(one.name, one.kind, one.conclusion) for one in found.checks]
            == [("deploy", CheckKind.STATUS, None)]
        ),
    ),
    "a status that failed": (
        [lambda ours: ours.check("deploy", "error", log=None, summary="No host", url="https://d.example/")],
        lambda _, found: (
            [(one.name, one.conclusion, one.errors, one.url) for one in found.checks]
            == [("deploy", CheckConclusion.FAILURE, "No host", "https://d.example/")]
        ),
    ),
    "checks of an older commit": (
        [
            lambda ours: ours.check("unit", "failure"),
            lambda ours: ours.server.push(REPOSITORY, BRANCH, {"more.txt": "More\n"}, by=BOT),
        ],
        lambda _, found: found.checks == (),
    ),
    "a base that is red too": (
        [
            lambda ours: ours.server.add_check(REPOSITORY, ours.base, "unit", "failure", log=b""),
            lambda ours: ours.check("unit", "failure"),
        ],
        lambda ours, found: (
            [(one.name, one.conclusion) for one in found.base_checks]
            == [(job(ours, "unit"), CheckConclusion.FAILURE)]
        ),
    ),
}


@pytest.mark.parametrize("name", [*REVIEW, *STATE, *CHECKS])
async def test_what_happens_to_a_change_is_shown(ours: Ours, name: str) -> None:
    acts, shows = {**REVIEW, **STATE, **CHECKS}[name]
    before = await ours.snapshot()  # so that nothing that is remembered hides what comes
    assert not before.threads
    for act in acts:
        await asyncio.to_thread(act, ours)
    found = await ours.snapshot()
    assert shows(ours, found), found


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (lambda server, number: server.merge(REPOSITORY, number), ChangeState.MERGED),
        (lambda server, number: server.close(REPOSITORY, number, kind="change"), ChangeState.CLOSED),
    ],
    ids=["merged", "closed"],
)
async def test_a_change_that_is_not_open_any_more(
    ours: Ours, act: Callable[[ForgeServer, int], object], state: ChangeState
) -> None:
    await asyncio.to_thread(act, ours.server, ours.number)
    assert (await ours.world.forge.open_changes()).snapshots == ()
    assert (await ours.world.forge.snapshot(ours.item)).state is state


async def test_whether_it_merges_is_unknown_at_first(ours: Ours) -> None:
    ours.server.sandbox.mergeability_lag = 2 if ours.github else 1  # the search and the change ask for it
    conflict = {FILE: NUMBERED.replace("line 12", "12")}
    await asyncio.to_thread(ours.server.push, REPOSITORY, "main", conflict)
    seen = [(await ours.world.forge.open_changes()).snapshots[0].mergeability for _ in range(2)]
    assert seen == [Mergeability.UNKNOWN, Mergeability.CONFLICT]


async def test_checks_that_our_token_may_not_read_are_not_taken_for_none(ours: Ours) -> None:
    if ours.github:
        ours.server.user(BOT).reads_checks = False
        assert (await ours.snapshot()).checks_problem == "", "there are none yet"
    else:
        plant_fault(ours.server, path=".*/pipelines/[0-9]+/jobs$", status=403, times=None)
    ours.check("unit", "failure")
    ours.check("deploy", "success", log=None)
    found = await ours.snapshot()
    problem = "our token may not read checks" if ours.github else "does not show the pipeline (403)"
    assert found.checks_problem.endswith(problem)
    assert [check.name for check in found.checks] == (["deploy"] if ours.github else [])


async def test_a_check_that_passed_before_on_the_same_commit(ours: Ours) -> None:
    ours.check("unit", "success")
    [passed] = ours.server.sandbox.reviews.checks(ours.server.repository(REPOSITORY))
    ours.server.rerun(REPOSITORY, passed)
    ours.check("unit", "failure")
    ours.check("lint", "failure")
    found = {check.name: check.earlier for check in (await ours.snapshot()).checks}
    assert found == {job(ours, "unit"): (CheckConclusion.SUCCESS,), job(ours, "lint"): ()}
    resting = 1 if ours.github else 2 + 2  # a red head is compared with the base, once for all into it
    await rests(ours.world, resting)


@on_github
async def test_earlier_runs_are_read_again_after_the_forge_was_down(ours: Ours) -> None:
    ours.check("unit", "success")
    [passed] = ours.server.sandbox.reviews.checks(ours.server.repository(REPOSITORY))
    ours.server.rerun(REPOSITORY, passed)
    ours.check("unit", "failure")
    down = ours.server.fault(path=".*/check-runs", status=502, times=None)
    with pytest.raises(ForgeUnavailableError):
        await ours.world.forge.open_changes()
    down.end()
    assert [one.earlier for one in (await ours.snapshot()).checks] == [(CheckConclusion.SUCCESS,)]


@on_github
async def test_a_token_that_may_not_read_earlier_runs_reads_the_change(ours: Ours) -> None:
    ours.check("unit", "failure")
    ours.server.fault(path=".*/check-runs", status=403, times=None)
    assert [one.earlier for one in (await ours.snapshot()).checks] == [()]


@on_github
async def test_the_checks_that_a_rule_demands(ours: Ours) -> None:
    ours.server.repository(REPOSITORY).required.add("unit")
    ours.check("unit", "failure")
    ours.check("lint", "success")
    assert {one.name: one.required for one in (await ours.snapshot()).checks} == {
        "CI / unit": True,
        "CI / lint": False,
    }


@on_gitlab
async def test_a_job_that_may_fail_is_no_failure(ours: Ours) -> None:
    ours.check("lint", "failure", allow_failure=True)
    ours.check("unit", "failure", summary="runner_system_failure")
    assert checks(await ours.snapshot()) == {
        "test / lint": ended(CheckConclusion.NEUTRAL),
        "test / unit": ended(CheckConclusion.INFRASTRUCTURE),
    }


async def requests_of(world: World) -> list[str]:
    """The requests of one look at all open changes."""
    world.server.sandbox.requests.clear()
    found = await world.forge.open_changes()
    assert found.unreadable == ()
    assert found.complete
    return [f"{entry.method} {entry.path}" for entry in world.server.sandbox.requests]


async def rests(world: World, expected: int) -> list[str]:
    """Look until a look takes this many requests: GitHub's times are whole seconds, so what has just changed
    is read again for two of them."""
    found: list[str] = []

    async def are_as_expected() -> bool:
        nonlocal found
        found = await requests_of(world)
        return len(found) == expected

    await until_async(
        lambda: f"{expected} requests; what is known is read again: {Counter(found)}",
        are_as_expected,
        interval=0.2,
    )
    return found


async def test_the_requests_for_twenty_changes_that_rest(ours: Ours) -> None:
    """Each has a thread that was answered, a review and a check."""
    numbers = [ours.number]
    for number in range(19):
        numbers.append(await asyncio.to_thread(open_ours, ours.server, f"coding-agent/{number}"))
    for number in numbers:
        one = Ours(ours.world, number)
        one.review("COMMENTED", "Well.")
        one.thread()
        one.reply("Done.", BOT)
        one.check("unit", "success")
    at_rest = 1 if ours.github else 21
    resting = await rests(ours.world, at_rest)
    ours.reply("Thank you.", "alice")
    moved = await requests_of(ours.world)
    assert len(moved) == (2 if ours.github else 21 + 6), Counter(moved)
    assert Counter(await rests(ours.world, at_rest)) == Counter(resting)
    found = {one.item.number: one for one in (await ours.world.forge.open_changes()).snapshots}
    assert found[ours.number].threads[0].remarks[-1].body == "Thank you."
    assert set(found) == set(numbers)


@on_github
async def test_who_pushed_is_asked_once_for_each_head_if_others_have_commits_there(ours: Ours) -> None:
    await requests_of(ours.world)
    await asyncio.to_thread(ours.server.push, REPOSITORY, BRANCH, {"more.txt": "More\n"}, by=BOT)
    assert len(await requests_of(ours.world)) == 2
    for text in ("One\n", "Two\n"):
        await asyncio.to_thread(ours.server.push, REPOSITORY, BRANCH, {"more.txt": text}, by="alice")
        [_, _, asked] = await requests_of(ours.world)
        assert asked.endswith(f"/repos/{REPOSITORY}/activity")
        assert len(await requests_of(ours.world)) == 2


@on_github
async def test_a_token_that_may_not_read_who_pushed_reads_the_change(ours: Ours) -> None:
    await asyncio.to_thread(ours.server.push, REPOSITORY, BRANCH, {"more.txt": "More\n"}, by="alice")
    plant_fault(ours.server, path=".*/activity$", status=403, times=100)
    found = await ours.snapshot()
    assert (found.head_commit, found.events) == (ours.head, ())


@pytest.mark.parametrize("world", ["github", pytest.param("gitlab", marks=pytest.mark.long)], indirect=True)
async def test_more_changes_than_a_page_has(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_PAGE", 25)
    for number in range(29):
        await asyncio.to_thread(open_ours, ours.server, f"coding-agent/{number}")
    await rests(ours.world, 2 if ours.github else 31)
    assert len((await ours.world.forge.open_changes()).snapshots) == 30


@on_gitlab
async def test_a_change_that_cannot_be_read_holds_back_no_other(ours: Ours) -> None:
    other = await asyncio.to_thread(open_ours, ours.server, "coding-agent/other")
    plant_fault(ours.server, path=f".*/merge_requests/{ours.number}$", status=500, times=100)
    found = await ours.world.forge.open_changes()
    assert [one.item.number for one in found.snapshots] == [other]
    [(item, why)] = found.unreadable
    assert item == ours.item
    assert "500" in why


@on_gitlab
async def test_a_forge_that_is_down_is_no_matter_of_one_change(ours: Ours) -> None:
    plant_fault(ours.server, path=f".*/merge_requests/{ours.number}$", status=503, times=100)
    with pytest.raises(Exception, match="503"):
        await ours.world.forge.open_changes()


async def test_our_draft_becomes_ready_once(ours: Ours) -> None:
    forge, server = ours.world.forge, ours.server
    await asyncio.to_thread(server.push, REPOSITORY, "coding-agent/issue-2", {FILE: TWELVE}, by=BOT)
    await asyncio.to_thread(server.close, REPOSITORY, ours.number, kind="change")
    opened = await forge.open_change(
        ours.world.issue, branch="coding-agent/issue-2", base="main", title="Say 12", body="", draft=True
    )
    ours.number = opened.number
    found = await ours.snapshot()
    assert (found.draft, found.title, found.events) == (True, "Say 12", ())
    assert (await forge.read(ours.item)).title == "Say 12", "the beginning of a draft's title is none of it"
    server.sandbox.requests.clear()
    for _ in range(2):
        await forge.mark_ready(ours.item)
        found = await ours.snapshot()
        events = [(one.kind, one.actor and one.actor.id) for one in found.events]
        assert (found.draft, found.title, events) == (
            False,
            "Say 12",
            [(ChangeEventKind.READY, found.own.id)],
        )
    marks = [one for one in server.sandbox.requests if "markPull" in str(one.body) or one.method == "PUT"]
    assert len(marks) == 1
    if ours.github:
        validate_exchange(marks[0].body, marks[0].response)


@on_github
async def test_a_repository_without_drafts_gets_a_change_that_is_ready(ours: Ours) -> None:
    await asyncio.to_thread(ours.server.push, REPOSITORY, "coding-agent/issue-2", {FILE: TWELVE}, by=BOT)
    refusal = {"message": "Draft pull requests are not supported in this repository."}
    plant_fault(ours.server, method="POST", path=".*/pulls$", status=422, body=json.dumps(refusal))
    opened = await ours.world.forge.open_change(
        ours.world.issue, branch="coding-agent/issue-2", base="main", title="Say 12", body="", draft=True
    )
    assert opened.created
    assert not ours.server.item(REPOSITORY, opened.number, "change").draft


async def ask_for_more(ours: Ours, thread: str) -> None:
    """Send the queries for further pages of each list."""
    client = ours.world.forge.client
    owner, name = REPOSITORY.split("/")
    of_change = {"owner": owner, "name": name, "number": ours.number, "cursor": "1"}
    queries = [(older.query, of_change) for older in OLDER]
    for query, variables in (*queries, (OLDER_REMARKS, {"thread": thread, "cursor": "1"})):
        body = {"query": query, "variables": variables}
        await client.send(Call("POST", graphql_url(client.api_url), "reading more", json=body))


@on_github
async def test_the_query_and_its_answer_fit_githubs_schema(ours: Ours) -> None:
    for acts, _ in (*REVIEW.values(), *STATE.values(), *CHECKS.values()):
        if len(acts) == 1:
            await asyncio.to_thread(acts[0], ours)
    store, repository = ours.server.sandbox.store, ours.server.repository(REPOSITORY)
    pushed = (repository, ours.server.user(), BRANCH, ours.base, ours.head)
    ours.server.run(lambda: store.pushed(*pushed, forced=True))
    ours.server.repository(REPOSITORY).required.add("unit")
    for readable in (True, False):
        ours.server.user(BOT).reads_checks = readable
        ours.server.sandbox.requests.clear()
        found = await ours.snapshot()
        assert found.head_at == found.events[-1].at
        assert found.threads
        await ask_for_more(ours, found.threads[0].id)
        asked = [entry for entry in ours.server.sandbox.requests if entry.path == "/api/graphql"]
        assert len(asked) == 3 + len(OLDER) + 1
        for entry in asked:
            validate_exchange(entry.body, entry.response)


async def test_the_rounds_are_shown_on_an_open_issue_only(world: World) -> None:
    url = "https://example.test/change/8"
    done = State(uuid="u", phase=Phase.SUCCEEDED, branch=BRANCH, change_url=url)
    shown = Report(
        task="t", item=world.issue, labels=Labels(), state=done, max_attempts=3, since=datetime.now(UTC)
    )
    await world.forge.upsert_comment(world.issue, MARKER, comment(shown))

    async def body() -> str:
        found = await world.forge.find_comment(world.issue, MARKER)
        assert found is not None
        return found.body

    world.server.close(REPOSITORY, world.issue.number, by="alice")
    before = await body()
    await show_on_issue(world.forge, world.issue, ChangeRounds(url, "1 round for a review"))
    assert await body() == before
    world.server.reopen(REPOSITORY, world.issue.number, by="alice")
    await show_on_issue(world.forge, world.issue, ChangeRounds(url, "1 round for a review"))
    assert "1 round for a review" in await body()
