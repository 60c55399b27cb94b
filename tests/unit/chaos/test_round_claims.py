"""The judge finds each planted wrong history of rounds, and nothing in right ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self

import pytest

from tests.chaos.promises import RoundPromises
from tests.unit.chaos.tape import ADA, BOT, DONE, PROMISES, START, Tape, at_

EVE = "eve"
CHANGE = 31
BRANCH = "coding-agent/issue-7"
ROUNDS = replace(
    PROMISES, rounds=RoundPromises(reviews=2, checks=2, conflicts=2, reruns=2, quiet=5, start=30)
)


class RoundTape(Tape):
    """Records what happens on change 31, which the bot has opened for issue 7."""

    runs = 0

    def on_change(self, at: float, event: str, actor: str = ADA, **more: Any) -> Self:
        self.forge(at, event, actor, CHANGE, kind="change", **more)
        return self

    def head(self, at: float, commit: str, actor: str = BOT) -> Self:
        self.forge(at, "pushed", actor, None, branch=BRANCH, after=commit)
        return self

    def opens_change(self, at: float, number: int) -> None:
        branch = self.branch(number)
        known = [line["branch"] for line in self.lines if line.get("event") == "opened"]
        if branch not in known:
            more = {"kind": "change", "branch": branch, "base": "main", "body": f"Closes #{number}\n"}
            self.forge(at, "opened", BOT, CHANGE + len(known), **more)

    def remark(
        self, at: float, comment: int, thread: int = 500, actor: str = ADA, body: str = "Why?"
    ) -> Self:
        self.on_change(at, "review_commented", actor, comment=comment, thread=thread, body=body)
        return self

    def mention(self, at: float, comment: int, actor: str = ADA) -> Self:
        self.on_change(at, "commented", actor, comment=comment, body=f"@{BOT} please go on.")
        return self

    def review(self, at: float, review: int, state: str, body: str = "No.", actor: str = ADA) -> Self:
        self.on_change(at, "reviewed", actor, review=review, state=state, body=body)
        return self

    def check(self, at: float, state: str, commit: str, name: str = "unit", body: str = "1 failed") -> Self:
        self.forge(at, "check", "ci", None, state=state, commit=commit, check=name, body=body)
        return self

    def rerun(self, at: float, commit: str, actor: str = BOT) -> Self:
        self.forge(at, "rerun", actor, None, commit=commit, check="unit")
        return self

    def merge_of(self, at: float, head: str, base: str, *, merges: bool) -> Self:
        place = {"host": "github.test", "repository": "octo/demo", "number": CHANGE}
        self.add("mergeability", at=at_(at), head=head, base=base, merges=merges, **place)
        return self

    def answers(self, at: float, ids: Iterable[str], comment: int, thread: int = 500) -> Self:
        body = f"<!-- coding-agent:answers {' '.join(ids)} -->\nThe changes are in c9."
        if thread:
            self.remark(at, comment, thread, BOT, body)
        else:
            self.on_change(at, "commented", BOT, comment=comment, body=body)
        return self

    def round(
        self,
        at: float,
        kind: str,
        head: str,
        *ids: str,
        pushes: str = "",
        end: str | None = "",
        replies: bool = True,
        phase: str = "Succeeded",
        created_for: tuple[str, ...] | None = None,
    ) -> Self:
        """A round of 20 s; with `end=None` its status does not say how it ended."""
        self.runs += 1
        name = f"demo-change-31-{self.runs}"
        source = {"host": "github.test", "repository": "octo/demo", "kind": "change", "number": CHANGE}
        cause = json.dumps([kind, head, *(created_for or ids), 0])
        spec = {"source": source, "run": self.runs, "trigger": {"round": {"cause": cause, "head": head}}}
        self.audit(at, "agenttasks", "create", name, {"metadata": {"name": name}, "spec": spec})
        self.pod(at + 1, at + 19, name)
        self.phase(at + 2, name, "Running")
        if pushes:
            self.head(at + 15, pushes)
        if kind == "review" and replies:
            for place in (500, 0):
                here = [one for one in ids if (one[0] == "t") == bool(place)]
                if here:
                    self.answers(at + 16, here, 1000 * self.runs + len(here) + place, place)
        keys = ["0123456789ab"] if kind == "checks" else ids
        done = {"kind": kind, "before": head, "after": pushes or head, "keys": keys}
        done["end"] = end or ("pushed" if pushes else "no push")
        status = {"phase": phase, "result": {} if end is None else {"round": done}}
        self.audit(at + 20, "agenttasks", "patch", name, {"status": status}, subresource="status")
        state = json.dumps({"uuid": name, "run": self.runs, "phase": phase})
        event = "comment_edited" if self.runs > 1 else "commented"
        body = f"**Coding agent**\n\n<!-- coding-agent:status {state} -->"
        self.on_change(at + 20.5, event, BOT, comment=9000, body=body)
        if phase == "Succeeded" and self.runs == 1:
            self.on_change(at + 20.6, "labeled", BOT, label=DONE)
        return self


def right() -> RoundTape:
    """A change with a round of each kind; its head is `c4`, that of its base `b2`."""
    tape = RoundTape()
    tape.whole(10)
    tape.head(29, "c1")
    tape.remark(60, 501)
    tape.round(75, "review", "c1", "t501", pushes="c2")
    tape.check(100, "running", "c2")
    tape.check(110, "failure", "c2")
    tape.round(130, "checks", "c2", "unit", pushes="c3")
    tape.check(160, "success", "c3")
    tape.merge_of(150, "c3", "b1", merges=True)
    tape.merge_of(200, "c3", "b2", merges=False)
    tape.round(215, "conflict", "c3", "b2", pushes="c4")
    tape.merge_of(231, "c4", "b2", merges=True)
    return tape


def test_a_right_history_has_no_violations() -> None:
    verdict = right().verdict(ROUNDS)
    assert not verdict.violations, verdict.text()
    assert (verdict.applications, verdict.runs, verdict.rounds) == (1, 1, 3)


def _three_reviews(tape: RoundTape) -> None:
    for number, at in ((2, 300), (3, 350)):
        tape.remark(at, 500 + number)
        tape.round(at + 10, "review", f"c{number + 2}", f"t50{number}", pushes=f"c{number + 3}")


def _three_check_rounds(tape: RoundTape, name: str = "unit") -> None:
    for number, at in ((4, 300), (5, 350), (6, 400)):
        tape.check(at, "failure", f"c{number}", name, body=f"failed {number} times")
        tape.round(at + 10, "checks", f"c{number}", name, pushes=f"c{number + 1}")


def _the_issue_is_worked_on_again(tape: RoundTape) -> None:
    tape.on_change(300, "merged")
    tape.unlabel(310, DONE, ADA)
    tape.suffix = "-r2"
    tape.whole(311, run=2)


Plant = Callable[[RoundTape], object]
PLANTED: dict[str, tuple[str, Plant]] = {
    "a remark in a thread": ("lost", lambda tape: tape.remark(300, 502, thread=600)),
    "a reply to our answer, whose lines were changed": (
        "lost",
        lambda tape: tape.head(290, "c5", ADA).remark(300, 502),
    ),
    "a remark whose lines another run of ours changed": (
        "lost, cause",
        lambda tape: tape.remark(300, 502, thread=600).head(301, "c5"),
    ),
    "a request for changes": ("lost", lambda tape: tape.review(300, 70, "CHANGES_REQUESTED")),
    "a mention": ("lost", lambda tape: tape.mention(300, 80)),
    "a mention, of which a superseded round says that it had read it": (
        "lost",
        lambda tape: tape.mention(300, 80).round(310, "review", "c4", "c80", end="superseded"),
    ),
    "a failed check": ("lost", lambda tape: tape.check(300, "failure", "c4", body="2 failed")),
    "a conflict": ("lost", lambda tape: tape.merge_of(300, "c4", "b3", merges=False)),
    "the same remark": ("doubled", lambda tape: tape.round(300, "review", "c4", "t501", replies=False)),
    "the same failed check": ("doubled", lambda tape: tape.round(300, "checks", "c2", "unit")),
    "the same conflict": ("doubled", lambda tape: tape.round(300, "conflict", "c3", "b2")),
    "the same mention, after a round that was cancelled while the change was open": (
        "doubled, work",
        lambda tape: (
            tape.mention(300, 80)
            .round(310, "review", "c4", "c80", end="cancelled", phase="Cancelled", replies=False)
            .round(340, "review", "c4", "c80")
        ),
    ),
    "a third round for reviews": ("bound", _three_reviews),
    "a third round for checks": ("bound", _three_check_rounds),
    "a third re-run of a check": (
        "bound, cause",
        lambda tape: [tape.rerun(300 + number, "c4") for number in range(3)].clear(),
    ),
    "a stranger's remark": (
        "reaction",
        lambda tape: tape.remark(300, 502, actor=EVE).round(310, "review", "c4", "t502"),
    ),
    "our own answer": ("reaction, cause", lambda tape: tape.round(310, "review", "c4", "t1501")),
    "checks that passed": ("reaction", lambda tape: tape.round(310, "checks", "c3", "unit")),
    "a conflict that never was": ("reaction", lambda tape: tape.round(310, "conflict", "c4", "b2")),
    "two replies": ("answers, cause", lambda tape: tape.answers(110, ["t501"], 7000)),
    "no reply": (
        "answers",
        lambda tape: tape.mention(300, 80).round(310, "review", "c4", "c80", replies=False),
    ),
    "a round for a merged change": (
        "round after the end, stopped late",
        lambda tape: tape.mention(300, 80).on_change(301, "merged").round(320, "review", "c4", "c80"),
    ),
    "a push long after the merge": (
        "pushed late",
        lambda tape: (
            tape.remark(300, 502).on_change(312, "merged").round(310, "review", "c4", "t502", pushes="c5")
        ),
    ),
    "a pod long after the merge": (
        "stopped late, cause",
        lambda tape: tape.on_change(300, "merged").pod(315, 320, "demo-change-31-3", "late"),
    ),
    "two comments with the state": (
        "comments",
        lambda tape: tape.on_change(
            300,
            "commented",
            BOT,
            comment=9001,
            body='<!-- coding-agent:status {"uuid": "u", "run": 3, "phase": "Succeeded"} -->',
        ),
    ),
    "two rounds at a time": (
        "overlap",
        lambda tape: (
            tape.mention(300, 80)
            .round(310, "review", "c4", "c80")
            .check(311, "failure", "c4", body="2 failed")
            .round(320, "checks", "c4", "unit")
        ),
    ),
}
PLANTED_KINDS = {kind for kinds, _ in PLANTED.values() for kind in kinds.split(", ")}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_history_is_found(name: str) -> None:
    kinds, plant = PLANTED[name]
    tape = right()
    plant(tape)
    verdict = tape.verdict(ROUNDS)
    assert set(verdict.kinds) == set(kinds.split(", ")), verdict.text()


def test_a_violation_of_re_runs_is_at_the_last_one_of_its_commit() -> None:
    tape = right()
    tape.check(299, "failure", "c3")
    for number in range(3):
        tape.rerun(300 + number, "c3")
    tape.check(399, "failure", "c4").rerun(400, "c4").check(401, "success", "c4")
    [violation] = tape.verdict(ROUNDS).violations
    assert (violation.kind, violation.at) == ("bound", START + timedelta(seconds=302)), violation


ALLOWED: dict[str, Plant] = {
    "a /cancel of the issue, whose run has ended": lambda tape: tape.forge(50, "commented", body="/cancel"),
    "a stranger writes": lambda tape: (
        tape.remark(300, 502, thread=600, actor=EVE)
        .mention(301, 80, EVE)
        .review(302, 70, "CHANGES_REQUESTED", actor=EVE)
    ),
    "somebody approves": lambda tape: tape.review(300, 70, "APPROVED", "Fine."),
    "the reviewer approves after all": lambda tape: tape.review(300, 70, "CHANGES_REQUESTED").review(
        310, 71, "APPROVED", ""
    ),
    "the thread is resolved": lambda tape: tape.remark(300, 502, thread=600).on_change(
        305, "resolved", thread=600
    ),
    "the change is closed": lambda tape: tape.remark(300, 502).on_change(305, "closed"),
    "a remark shortly before the end": lambda tape: tape.remark(580, 502),
    "a remark that a fault delays": lambda tape: tape.remark(300, 502).fault(310, 590),
    "the lines of a remark were changed by somebody": lambda tape: tape.remark(300, 502, thread=600).head(
        301, "c5", ADA
    ),
    "a check that is flaky": lambda tape: (
        tape.check(300, "success", "c4")
        .rerun(301, "c4", ADA)
        .check(302, "failure", "c4")
        .rerun(310, "c4")
        .rerun(320, "c4")
    ),
    "the same errors after a round": lambda tape: tape.check(300, "failure", "c4").check(
        301, "failure", "c4", "lint", "long line"
    ),
    "the same errors, and a run that was cancelled before the round": lambda tape: tape.check(
        112, "error", "c2", "coding-agent", "Cancelled"
    ).check(300, "failure", "c4"),
    "a check that runs for good": lambda tape: tape.check(300, "running", "c4"),
    "another check fails on the same head": lambda tape: (
        tape.check(300, "failure", "c4", "lint", "long line")
        .round(310, "checks", "c4", "lint")
        .check(340, "failure", "c4", "docs", "no title")
        .round(350, "checks", "c4", "docs")
        .review(345, 70, "APPROVED")
    ),
    "the limit is reached": lambda tape: (
        tape.remark(300, 502).round(310, "review", "c4", "t502").remark(350, 503)
    ),
    "a mention starts the count anew": lambda tape: (
        tape.mention(300, 80)
        .round(310, "review", "c4", "c80")
        .remark(350, 503)
        .round(360, "review", "c4", "t503")
    ),
    "a superseded round comes again": lambda tape: (
        tape.mention(300, 80)
        .round(310, "review", "c4", "c80", end="superseded", replies=False)
        .round(340, "review", "c4", "c80")
    ),
    "a round that ended because the change was closed comes again": lambda tape: (
        tape.mention(300, 80)
        .round(310, "review", "c4", "c80", end=None, phase="Cancelled", replies=False)
        .on_change(315, "closed")
        .on_change(335, "reopened")
        .round(340, "review", "c4", "c80")
    ),
    "a round works on something else than it was created for": lambda tape: (
        tape.mention(300, 80).remark(301, 502).round(310, "review", "c4", "c80", "t502", created_for=("c80",))
    ),
    "the issue's own work goes on after the change was merged": _the_issue_is_worked_on_again,
}


CAUSES: dict[str, tuple[str, Plant]] = {
    "review": ("c80", lambda tape: tape.mention(300, 80)),
    "checks": ("unit", lambda tape: tape.check(300, "failure", "c4", body="2 failed")),
    "conflict": ("b3", lambda tape: tape.merge_of(300, "c4", "b3", merges=False)),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_a_round_that_says_that_it_was_cancelled_as_its_change_was_closed_comes_again(kind: str) -> None:
    cause, happens = CAUSES[kind]
    tape = right()
    happens(tape)
    tape.round(310, kind, "c4", cause, end="cancelled", phase="Cancelled", replies=False)
    tape.on_change(315, "closed").on_change(335, "reopened").round(340, kind, "c4", cause)
    verdict = tape.verdict(ROUNDS)
    assert not verdict.violations, verdict.text()


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_no_violation(name: str) -> None:
    tape = right()
    ALLOWED[name](tape)
    verdict = tape.verdict(ROUNDS)
    assert not verdict.violations, verdict.text()


def test_without_rounds_nothing_is_promised_of_them() -> None:
    tape = right()
    tape.remark(300, 502)
    assert tape.verdict(ROUNDS).kinds["lost"]
    assert not tape.verdict().violations


def test_without_rounds_a_round_needs_its_cause_all_the_same() -> None:
    tape = right()
    tape.round(310, "review", "c4", "c999", replies=False)
    assert tape.verdict().kinds["reaction"]
