"""When rounds end, in which order they start, and who starts the count anew."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.forge.changes import (
    REMARKS_LIMIT,
    WRITTEN,
    Actor,
    ChangeEvent,
    ChangeEventKind,
    ChangeState,
    CheckConclusion,
    Mergeability,
    Part,
    Remark,
)
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.rounds.decide import interruption
from coding_agent_core.task.round_cause import IDS_LIMIT, RoundKind, RoundPolicy, StopReason
from coding_agent_core.task.round_record import ROUNDS_LIMIT, RoundEnd, RoundRecord, RoundResult

from tests.unit.core_rounds.making import (
    ANNA,
    BASE,
    HEAD,
    LATER,
    NOISY,
    OTHER_BOT,
    OURS,
    POLICY,
    REVIEW_BOT,
    STRANGER,
    after,
    at,
    change,
    check,
    decide,
    ended,
    event,
    reasons,
    remark,
    review,
    rounds,
    sha,
    thread,
)

ALL: dict[str, Any] = {
    "threads": (thread(remark(1)),),
    "checks": (check(),),
    "mergeability": Mergeability.CONFLICT,
}
"""Everything that can cause a round."""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"state": ChangeState.MERGED}, StopReason.MERGED, id="merged"),
        pytest.param({"state": ChangeState.CLOSED}, StopReason.CLOSED, id="closed"),
        pytest.param({"labels": frozenset({"Coding Agent Hands Off"})}, StopReason.HANDS_OFF, id="label"),
        pytest.param({"author": ANNA}, StopReason.NOT_OURS, id="a person's change"),
        pytest.param(
            {"created_at": LATER - timedelta(days=30), "threads": ()}, StopReason.TOO_OLD, id="too old"
        ),
        pytest.param(
            {
                "created_at": LATER - timedelta(days=30),
                "threads": (),
                "mergeability": Mergeability.MERGES,
                "checks": (check(conclusion=CheckConclusion.INFRASTRUCTURE),),
            },
            StopReason.TOO_OLD,
            id="too old, and a check could run again",
        ),
    ],
)
def test_nothing_starts(fields: dict[str, Any], reason: StopReason) -> None:
    work = decide(change(**ALL | fields))
    assert (work.due, work.reruns, reasons(work)) == ((), (), [reason])
    assert work.stops[0].sentence.endswith(".")


@pytest.mark.parametrize(
    ("actors", "stops"),
    [
        pytest.param([ANNA], False, id="a person"),
        pytest.param([OTHER_BOT], True, id="a bot"),
        pytest.param([NOISY], True, id="a bot with a person's account"),
        pytest.param([OURS], True, id="we"),
        pytest.param([OTHER_BOT, ANNA], False, id="a person later"),
    ],
)
def test_only_people_take_the_hands_off_label_off(actors: list[Actor], stops: bool) -> None:
    """A workflow that cleans up labels must not start rounds."""
    events = []
    for place, actor in enumerate(actors):
        label = {"label": POLICY.hands_off_label.upper()}
        events += [event(ChangeEventKind.LABELED, ANNA, 100 * place, **label)]
        events += [event(ChangeEventKind.UNLABELED, actor, 100 * place + 10, **label)]
    work = decide(change(**ALL | {"events": tuple(events)}))
    assert (reasons(work) == [StopReason.HANDS_OFF]) is stops


def test_a_bot_may_apply_the_hands_off_label() -> None:
    """The events can be older than the labels, which are without it again."""
    applied = event(ChangeEventKind.LABELED, OTHER_BOT, label=POLICY.hands_off_label)
    assert decide(change(**ALL | {"events": (applied,)})).due


def test_an_old_change_to_which_nothing_is_left_to_do_says_nothing() -> None:
    assert not decide(change(created_at=LATER - timedelta(days=90))).stops


def test_the_conflict_comes_first_and_the_checks_wait_for_it() -> None:
    work = decide(change(**ALL))
    assert [cause.kind for cause in work.due] == [RoundKind.CONFLICT, RoundKind.REVIEW]
    assert [(one.kind, one.until) for one in work.waiting] == [(RoundKind.CHECKS, None)]
    assert (work.due[0].ids, work.due[0].head) == ((BASE,), HEAD)


def test_a_review_comes_before_checks() -> None:
    work = decide(change(**ALL | {"mergeability": Mergeability.MERGES}))
    assert [cause.kind for cause in work.due] == [RoundKind.REVIEW, RoundKind.CHECKS]


def test_an_unknown_mergeability_is_no_conflict_and_holds_back_nothing() -> None:
    work = decide(change(**ALL | {"mergeability": Mergeability.UNKNOWN}))
    assert [cause.kind for cause in work.due] == [RoundKind.REVIEW, RoundKind.CHECKS]
    assert [one.kind for one in work.waiting] == [RoundKind.CONFLICT]


def test_a_mergeability_that_is_not_shown_is_no_conflict_and_nothing_waits_for_it() -> None:
    work = decide(change(**ALL | {"mergeability": Mergeability.NOT_SHOWN}))
    assert [cause.kind for cause in work.due] == [RoundKind.REVIEW, RoundKind.CHECKS]
    assert work.waiting == ()


def test_the_same_conflict_is_tried_once_and_another_base_again() -> None:
    snapshot = change(mergeability=Mergeability.CONFLICT)
    record = ended(RoundRecord(), decide(snapshot).due[0], RoundEnd.FAILED)
    assert reasons(decide(snapshot, record)) == [StopReason.NOTHING_PUSHED]
    moved = replace(snapshot, base_commit=sha("base 2"))
    assert decide(moved, record).due[0].count == "round 2 of 2"


def test_one_run_of_a_change_at_a_time() -> None:
    work = decide(change(**ALL), active=True)
    assert (work.due, work.stops) == ((), ())
    assert {one.kind for one in work.waiting} == set(RoundKind)


def test_names_of_rounds_are_short_stable_and_valid() -> None:
    cause = decide(change(threads=(thread(remark(1)),))).due[0]
    assert cause.identity == '["review","","t1",0]'
    assert cause.name_part == "review-3270135dc8"
    assert all(len(one.name_part) <= 19 for one in decide(change(**ALL)).due)


def test_a_reviews_identity_is_the_same_on_each_head() -> None:
    snapshot = change(threads=(thread(remark(1)),))
    pushed = replace(snapshot, head_commit=sha("head 2"))
    assert decide(snapshot).due[0].identity == decide(pushed).due[0].identity


@pytest.mark.parametrize("kind", RoundKind)
def test_bounds_are_exact(kind: RoundKind) -> None:
    policy = replace(POLICY, check_rounds=2, review_rounds=2, conflict_rounds=2)
    record = RoundRecord()
    counts = []
    for number in range(4):
        causes: dict[RoundKind, dict[str, Any]] = {
            RoundKind.CONFLICT: {"mergeability": Mergeability.CONFLICT},
            RoundKind.REVIEW: {"threads": (thread(remark(number, REVIEW_BOT)),)},
            RoundKind.CHECKS: {"checks": (check(),)},
        }
        work = decide(change(head_commit=sha(f"head {number}"), **causes[kind]), record, policy=policy)
        counts += [cause.count for cause in work.due]
        if work.due:
            record = ended(record, work.due[0])
        else:
            assert reasons(work) == [StopReason.BOUND]
    assert counts == ["round 1 of 2", "round 2 of 2"]


def test_a_limit_of_zero_allows_no_round() -> None:
    work = decide(change(checks=(check(),)), policy=RoundPolicy(check_rounds=0))
    assert (work.due, reasons(work)) == ((), [StopReason.BOUND])


PUSH = {"commit": sha("a person's")}
MENTION = "@coding-agent try again"


@pytest.mark.parametrize(
    ("fields", "anew"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"comments": (remark(9, ANNA, MENTION, 4000),)}, True, id="mention"),
        pytest.param({"comments": (remark(9, ANNA, "/retry", 4000),)}, True, id="command"),
        pytest.param({"comments": (remark(9, ANNA, "/cancel", 4000),)}, True, id="any comment"),
        pytest.param({"reviews": (review(second=4000),)}, True, id="review"),
        pytest.param({"events": (event(ChangeEventKind.PUSHED, ANNA, 4000, **PUSH),)}, True, id="push"),
        pytest.param(
            {"events": (event(ChangeEventKind.LABELED, ANNA, 4000, label="Coding agent"),)}, True, id="label"
        ),
        pytest.param(
            {"events": (event(ChangeEventKind.LABELED, ANNA, 4000, label="bug"),)}, False, id="another label"
        ),
        pytest.param(
            {"events": (event(ChangeEventKind.UNLABELED, ANNA, 4000, label="coding agent hands off"),)},
            True,
            id="hands off removed",
        ),
        pytest.param({"events": (event(ChangeEventKind.REOPENED, ANNA, 4000),)}, True, id="reopened"),
        pytest.param({"events": (event(ChangeEventKind.REOPENED, None, 4000),)}, False, id="by nobody known"),
        pytest.param({"events": (event(ChangeEventKind.APPROVED, ANNA, 4000),)}, True, id="approved"),
        pytest.param(
            {"events": (event(ChangeEventKind.CHANGES_REQUESTED, ANNA, 4000),)}, True, id="changes requested"
        ),
        pytest.param({"events": (event(ChangeEventKind.READY, ANNA, 4000),)}, False, id="ready"),
        *(
            pytest.param(
                {
                    "comments": (remark(9, who, MENTION, 4000),),
                    "threads": (thread(remark(10, who, MENTION, 4000), resolved=True),),
                    "events": (
                        event(ChangeEventKind.PUSHED, who, 4000, **PUSH),
                        event(ChangeEventKind.LABELED, who, 4000, label="coding agent"),
                        event(ChangeEventKind.APPROVED, who, 4000),
                    ),
                },
                False,
                id=who.login,
            )
            for who in (OURS, REVIEW_BOT, OTHER_BOT, NOISY, STRANGER)
        ),
        # The forge's clock was set back after the act, or before it.
        pytest.param({"comments": (remark(9, ANNA, MENTION, 999_999),)}, True, id="a time in the future"),
        pytest.param({"comments": (remark(9, ANNA, MENTION, 1),)}, True, id="a time before the rounds"),
        pytest.param({"events": (event(ChangeEventKind.REOPENED, ANNA, 1),)}, True, id="an event before"),
    ],
)
def test_only_a_persons_act_starts_the_count_of_checks_anew(fields: dict[str, Any], anew: bool) -> None:
    snapshot, record = rounds(change(checks=(check(),)), 3)
    work = decide(replace(snapshot, **fields), record, now=at(7000))
    checks = [cause for cause in work.due if cause.kind is RoundKind.CHECKS]
    assert [cause.count for cause in checks] == (["round 1 of 3"] if anew else [])
    assert (StopReason.BOUND in reasons(work)) is not anew


FORMATTER = Actor("9", "Formatter", member=True)
"""A program with a person's account and write access, which pushes after each round."""


@pytest.mark.parametrize(
    ("policy", "count"),
    [
        (replace(POLICY, programs=frozenset({"formatter"})), 3),
        (replace(POLICY, daily_rounds=7), 7),
        (POLICY, ROUNDS_LIMIT),
    ],
    ids=["it is listed", "a day has a limit", "neither"],
)
def test_a_program_that_pushes_after_each_round(policy: RoundPolicy, count: int) -> None:
    snapshot, record, now = change(checks=(check(),)), RoundRecord(), LATER
    options: dict[str, Any] = {"policy": policy, "may_write": lambda _: True}
    while due := decide(snapshot, record, now=now, **options).due:
        record = after(record, RoundResult(due[0], now, RoundEnd.PUSHED, sha(f"round {now}")))
        now += timedelta(minutes=10)
        pushed = ChangeEvent(ChangeEventKind.PUSHED, FORMATTER, now, sha(f"formatted {now}"))
        snapshot = replace(snapshot, events=(*snapshot.events, pushed), head_commit=pushed.commit)
        assert len(record.rounds) <= ROUNDS_LIMIT
    assert len(record.rounds) == count


def test_the_limit_of_a_day_ends_with_the_day_whoever_asks() -> None:
    policy = replace(POLICY, daily_rounds=2, check_rounds=9)
    snapshot, record = rounds(change(checks=(check(),)), 2, policy=policy)
    asked = replace(snapshot, comments=(remark(9, ANNA, MENTION, 4000),))
    for one in (snapshot, asked):
        work = decide(one, record, policy=policy, now=at(7000))
        assert (work.due, work.stops) == ((), ())
        assert {waiting.why for waiting in work.waiting} == {
            "There were 2 rounds within 24 hours, which is the limit."
        }
        assert work.decide_again == LATER + timedelta(hours=24)
        assert decide(one, record, policy=policy, now=work.decide_again).due
    set_back = decide(snapshot, record, policy=policy, now=LATER - timedelta(days=2))
    assert not [one for one in set_back.waiting if "24 hours" in one.why], "it would wait for days"


@pytest.mark.parametrize("platform", Platform)
def test_a_label_of_another_spelling_is_a_call_only_for_github(platform: Platform) -> None:
    snapshot, record = rounds(change(checks=(check(),)), 3)
    labeled = event(ChangeEventKind.LABELED, ANNA, 4000, label="Coding Agent")
    host = FACTS[platform].web_host
    item = snapshot.item.model_copy(update={"platform": platform, "host": host, "project_id": 1})
    work = decide(replace(snapshot, item=item, events=(labeled,)), record, now=at(7000))
    assert (StopReason.BOUND in reasons(work)) is (platform is not Platform.GITHUB)


@pytest.mark.parametrize(
    ("body", "count"), [("Rename it.", "round 2 of 5"), (MENTION, "round 1 of 5")], ids=["review", "mention"]
)
def test_a_review_alone_does_not_start_the_count_of_reviews_anew(body: str, count: str) -> None:
    first = thread(remark(1))
    record = ended(RoundRecord(), decide(change(threads=(first,))).due[0])
    snapshot = change(threads=(first, thread(remark(2, ANNA, body, 4000))))
    assert decide(snapshot, record, now=at(7000)).due[0].count == count


@pytest.mark.parametrize("kind", [ChangeEventKind.REOPENED, ChangeEventKind.APPROVED])
def test_an_act_starts_the_count_anew_once(kind: ChangeEventKind) -> None:
    snapshot, record = rounds(change(checks=(check(),)), 3)
    acted = replace(snapshot, events=(event(kind, ANNA, 3000),))
    snapshot, record = rounds(acted, 3, record)
    assert reasons(decide(snapshot, record)) == [StopReason.BOUND]


def test_a_verdict_without_a_word_does_not_start_the_count_of_reviews_anew() -> None:
    first = thread(remark(1))
    record = ended(RoundRecord(), decide(change(threads=(first,))).due[0])
    requested = event(ChangeEventKind.CHANGES_REQUESTED, ANNA, 4000)
    snapshot = change(threads=(first, thread(remark(2, second=4000))), events=(requested,))
    assert decide(snapshot, record, now=at(7000)).due[0].count == "round 2 of 5"


def test_more_acts_than_a_round_can_note_do_not_start_the_count_anew_for_ever() -> None:
    """The person with write access acted first, so strangers cannot hide that a round has read it."""
    chatter = [remark(number, STRANGER, second=100 + number) for number in range(2, 2 + 3 * IDS_LIMIT)]
    talk = (remark(1, ANNA, "Thanks.", 1), *chatter)
    snapshot, record = rounds(change(checks=(check(),), comments=talk), 3)
    assert "c1" in record.rounds[0].acts
    assert reasons(decide(snapshot, record)) == [StopReason.BOUND]


def test_a_removed_act_does_not_start_the_count_anew() -> None:
    first = event(ChangeEventKind.REOPENED, ANNA, 1000)
    snapshot, record = rounds(change(checks=(check(),), events=(first,)), 3)
    assert reasons(decide(replace(snapshot, events=()), record)) == [StopReason.BOUND]


def test_our_own_push_is_no_act_whoever_its_commit_names() -> None:
    """A commit can have the person as its author, for whom we made it."""
    snapshot, record = rounds(change(checks=(check(),)), 3)
    pushed = ChangeEvent(ChangeEventKind.PUSHED, ANNA, at(3500), commit=record.rounds[-1].after)
    assert reasons(decide(replace(snapshot, events=(pushed,)), record)) == [StopReason.BOUND]


def test_a_round_that_pushed_nothing_does_not_make_a_persons_push_ours() -> None:
    snapshot, record = rounds(change(checks=(check(),), comments=(remark(9),)), 1)
    pushed = event(ChangeEventKind.PUSHED, ANNA, 3500, **PUSH)
    snapshot = replace(snapshot, head_commit=PUSH["commit"], events=(pushed,), threads=(thread(remark(1)),))
    record = ended(record, decide(snapshot, record).due[0], RoundEnd.NO_PUSH)
    assert decide(snapshot, record).due[0].count == "round 1 of 3"


def test_permissions_for_acts_are_asked_only_where_they_decide() -> None:
    asked: list[str] = []

    def ask(login: str) -> bool:
        asked.append(login)
        return False

    talk = (remark(9, STRANGER, "hello", 100),)
    decide(change(comments=talk, checks=(check(),)), may_write=ask)
    assert asked == []
    snapshot, record = rounds(change(comments=talk, checks=(check(),)), 1)
    decide(snapshot, record, may_write=ask)
    assert asked == []
    decide(replace(snapshot, comments=(*talk, remark(10, STRANGER, "again", 200))), record, may_write=ask)
    assert set(asked) == {"mallory"}


@pytest.mark.parametrize(("who", "young"), [(ANNA, True), (REVIEW_BOT, False)])
def test_a_persons_act_makes_an_old_change_young(who: Actor, young: bool) -> None:
    old = change(created_at=LATER - timedelta(days=90), threads=(thread(remark(1, who)),))
    work = decide(old)
    assert (bool(work.due), reasons(work)) == (young, [] if young else [StopReason.TOO_OLD])
    later = LATER + POLICY.max_age
    assert reasons(decide(old, now=later)) == [StopReason.TOO_OLD]


PATCH, REVERSE = sha("patch"), sha("reverse")


@pytest.mark.parametrize(
    ("second", "stops"),
    [
        pytest.param({"patch": REVERSE, "reverse": PATCH}, [StopReason.UNDONE], id="undone"),
        pytest.param({"patch": sha("other"), "reverse": sha("more")}, [], id="another difference"),
        pytest.param({}, [], id="unknown difference"),
    ],
)
def test_a_difference_that_undoes_the_last_one_ends_the_loop(
    second: dict[str, Any], stops: list[StopReason]
) -> None:
    snapshot = change(checks=(check(),), threads=(thread(remark(1)),))
    by_review = decide(snapshot).due[0]
    record = ended(RoundRecord(), by_review, head=sha("2"), patch=PATCH, reverse=REVERSE)
    snapshot = replace(snapshot, head_commit=sha("2"))
    record = ended(record, decide(snapshot, record).due[0], head=sha("3"), **second)
    snapshot = replace(snapshot, head_commit=sha("3"))
    work = decide(snapshot, record)
    assert reasons(work) == stops
    assert bool(work.due) is not bool(stops)


def test_a_person_may_ask_to_undo_the_last_round() -> None:
    first = thread(remark(1, second=100))
    record = ended(
        RoundRecord(), decide(change(threads=(first,))).due[0], head=sha("2"), patch=PATCH, reverse=REVERSE
    )
    snapshot = change(
        head_commit=sha("2"), threads=(first, thread(remark(2, body="Take it back.", second=200)))
    )
    record = ended(record, decide(snapshot, record).due[0], head=sha("3"), patch=REVERSE, reverse=PATCH)
    failed = replace(snapshot, head_commit=sha("3"), checks=(check(),))
    assert decide(failed, record).due[0].kind is RoundKind.CHECKS


def test_a_full_record_ends_the_loop() -> None:
    record = RoundRecord()
    for number in range(ROUNDS_LIMIT + 3):
        snapshot = change(comments=(remark(number, ANNA, MENTION, number),))
        work = decide(snapshot, record)
        if number >= ROUNDS_LIMIT:
            assert (work.due, reasons(work)) == ((), [StopReason.RECORD_FULL])
        else:
            record = ended(record, work.due[0])


def test_a_cause_is_superseded_a_limited_number_of_times() -> None:
    snapshot, record = change(threads=(thread(remark(1)),)), RoundRecord()
    names = []
    while due := decide(snapshot, record).due:
        names.append(due[0].name_part)
        record = ended(record, due[0], RoundEnd.SUPERSEDED)
    assert len(set(names)) == len(names) == 6
    assert reasons(decide(snapshot, record)) == [StopReason.SUPERSEDED]


def test_a_broken_record_is_empty_and_said() -> None:
    work = decide(change(checks=(check(),)), RoundRecord(problem="rounds: is missing"))
    assert work.due
    assert "rounds: is missing" in work.notes[0]


@pytest.mark.parametrize("part", Part)
def test_what_was_not_read_is_said_and_is_not_nothing(part: Part) -> None:
    """A part of a list must not be taken for the whole."""
    work = decide(change(left_out=frozenset({part})))
    if part is Part.LABELS:
        assert [stop.reason for stop in work.stops] == [StopReason.HANDS_OFF]
        return
    assert f"{part} are left out" in work.notes[0]
    unread = [one.why for one in work.waiting if one.kind is RoundKind.REVIEW]
    assert unread == (["Remarks that were not read may need an answer."] if part in WRITTEN else [])


def test_a_strangers_many_remarks_push_out_nobody_elses() -> None:
    """1,200 comments, replies, threads and reviews of strangers, and one old remark of a member's each."""

    def said(number: int, author: Actor = STRANGER) -> Remark:
        return remark(number, author, second=number)

    many, due = range(10, 1_210), said(1, Actor("2", "anna"))
    threads = (thread(due, *map(said, many)), *(thread(said(5_000 + number)) for number in many))
    snapshot = change(threads=threads, comments=(due, *map(said, many)))
    assert due in snapshot.comments
    assert snapshot.threads[0].remarks[0] == due
    assert snapshot.left_out == {Part.COMMENTS, Part.THREADS}
    assert len(snapshot.comments) == sum(len(one.remarks) for one in snapshot.threads) == REMARKS_LIMIT
    assert decide(snapshot).due[0].ids == ("t1",)


def test_a_branch_without_a_commit_has_no_work() -> None:
    assert not decide(change(**ALL | {"head_commit": ""})).due
    assert not decide(change(mergeability=Mergeability.CONFLICT, base_commit="")).due


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"state": ChangeState.MERGED}, StopReason.MERGED),
        ({"state": ChangeState.CLOSED}, StopReason.CLOSED),
        ({"labels": frozenset({"coding agent hands off"})}, StopReason.HANDS_OFF),
        ({"head_commit": sha("a person's")}, StopReason.SUPERSEDED),
        ({"author": Actor("1", "renamed")}, None),
    ],
)
def test_a_round_is_interrupted(fields: dict[str, Any], reason: StopReason | None) -> None:
    stop = interruption(change(**ALL | fields), POLICY, HEAD)
    assert (stop and stop.reason) == reason
