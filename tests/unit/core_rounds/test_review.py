"""Which remarks cause a round: by whom, where, and since when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEvent,
    ChangeEventKind,
    ChangeSnapshot,
    ReviewVerdict,
)
from coding_agent_core.rounds.mentions import mentions
from coding_agent_core.task.round_cause import IDS_LIMIT, RoundKind
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, answer_mark

from tests.unit.core_rounds.making import (
    ANNA,
    BASE,
    HEAD,
    LATER,
    NOISY,
    OLAF,
    OTHER_BOT,
    OURS,
    POLICY,
    REVIEW_BOT,
    STRANGER,
    at,
    change,
    check,
    decide,
    ended,
    remark,
    review,
    sha,
    thread,
)

APPROVED, DISMISSED = ReviewVerdict.APPROVED, ReviewVerdict.DISMISSED
REQUESTED, COMMENTED = ReviewVerdict.CHANGES_REQUESTED, ReviewVerdict.COMMENTED
PLEASE = "@coding-agent please rename it"
OUR_ANSWER = f"{answer_mark(['t1'])}\nRenamed in 0123456."


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param({"threads": (thread(remark(1)),)}, ("t1",), id="a thread"),
        pytest.param(
            {"threads": (thread(remark(1)), thread(remark(2, OLAF)))}, ("t1", "t2"), id="two threads"
        ),
        pytest.param({"threads": (thread(remark(1), remark(2, OLAF)),)}, ("t1", "t2"), id="a reply"),
        pytest.param({"threads": (thread(remark(1), resolved=True),)}, (), id="resolved"),
        pytest.param({"threads": (thread(remark(1), outdated=True),)}, (), id="outdated"),
        pytest.param(
            {"threads": (thread(remark(1, body=PLEASE), outdated=True),)}, ("t1",), id="mention, outdated"
        ),
        pytest.param(
            {"threads": (thread(remark(1, body=PLEASE), resolved=True),)}, (), id="mention, resolved"
        ),
        pytest.param({"threads": (thread(remark(1, STRANGER)),)}, (), id="a stranger"),
        pytest.param(
            {"threads": (thread(remark(1, STRANGER), remark(2)),)}, ("t2",), id="stranger and member"
        ),
        pytest.param({"threads": (thread(remark(1, OURS)),)}, (), id="our own thread"),
        pytest.param({"threads": (thread(remark(1, REVIEW_BOT)),)}, ("t1",), id="a listed bot"),
        pytest.param({"threads": (thread(remark(1, NOISY)),)}, ("t1",), id="a listed bot, other letter case"),
        pytest.param({"threads": (thread(remark(1, OTHER_BOT)),)}, (), id="another bot"),
        pytest.param(
            {"threads": (thread(remark(1), remark(2, OURS, OUR_ANSWER)),)},
            (),
            id="answered, by the mark alone",
        ),
        pytest.param(
            {"threads": (thread(remark(1), remark(2, OURS, OUR_ANSWER), remark(3)),)},
            ("t3",),
            id="asked again",
        ),
        pytest.param(
            {"threads": (thread(remark(1), remark(2, OURS, OUR_ANSWER), remark(3), outdated=True),)},
            ("t3",),
            id="a reply to us where our push changed the lines",
        ),
        pytest.param(
            {"threads": (thread(remark(1), remark(2, ANNA, OUR_ANSWER)),)},
            ("t1", "t2"),
            id="a person's copy of our mark answers nothing",
        ),
        pytest.param({"reviews": (review(),)}, ("r50",), id="a review's text"),
        pytest.param({"reviews": (review(body=" \n"),)}, (), id="a review without text"),
        pytest.param({"reviews": (review(verdict=REQUESTED),)}, ("r50",), id="changes requested"),
        pytest.param({"reviews": (review(verdict=DISMISSED),)}, (), id="dismissed"),
        pytest.param({"reviews": (review(verdict=APPROVED),)}, (), id="approved"),
        pytest.param(
            {"reviews": (review(verdict=APPROVED, body=PLEASE),)}, ("r50",), id="approved with a mention"
        ),
        pytest.param(
            {"reviews": (review(verdict=APPROVED, body=""),), "threads": (thread(remark(1)),)},
            ("t1",),
            id="approved with a thread",
        ),
        pytest.param(
            {"reviews": (review(50), review(51, verdict=APPROVED, second=200))}, (), id="approved later"
        ),
        pytest.param(
            {"reviews": (review(50, verdict=APPROVED), review(51, second=200))},
            ("r51",),
            id="approved before",
        ),
        pytest.param(
            {"reviews": (review(50, verdict=APPROVED, second=200), review(51, second=120))},
            ("r51",),
            id="approved before, and the forge's clock was set back",
        ),
        pytest.param(
            {"reviews": (review(50), review(51, OLAF, APPROVED, second=200))},
            ("r50",),
            id="somebody approved",
        ),
        pytest.param({"reviews": (review(author=STRANGER),)}, (), id="a stranger's review"),
        pytest.param({"reviews": (review(author=OURS),)}, (), id="our own review"),
        pytest.param({"comments": (remark(9),)}, (), id="a comment"),
        pytest.param({"comments": (remark(9, body=PLEASE),)}, ("c9",), id="a mention"),
        pytest.param({"comments": (remark(9, STRANGER, PLEASE),)}, (), id="a stranger's mention"),
        pytest.param({"comments": (remark(9, REVIEW_BOT, PLEASE),)}, (), id="a listed bot's mention"),
        pytest.param({"comments": (remark(9, OURS, PLEASE),)}, (), id="our own mention"),
        pytest.param({"comments": (remark(9, body="/retry\n@coding-agent"),)}, (), id="a command"),
        pytest.param(
            {
                "reviews": (review(2, verdict=REQUESTED, body="", second=None),),
                "comments": (remark(9, body="Split it."), remark(10, OLAF)),
            },
            ("c9",),
            id="GitLab: the text of a review is a comment",
        ),
        pytest.param(
            {"reviews": (review(2, verdict=REQUESTED, body="", second=None),)},
            (),
            id="GitLab: changes requested without a word",
        ),
        pytest.param(
            {"threads": (thread(remark(1)),), "reviews": (review(1),), "comments": (remark(1, body=PLEASE),)},
            ("c1", "r1", "t1"),
            id="equal numbers of different kinds",
        ),
    ],
)
def test_causes(fields: dict[str, Any], ids: tuple[str, ...]) -> None:
    work = decide(change(**fields))
    assert [(cause.kind, cause.ids) for cause in work.due] == ([(RoundKind.REVIEW, ids)] if ids else [])


def test_the_text_of_an_approval_counts_by_a_setting() -> None:
    work = decide(change(reviews=(review(verdict=APPROVED),)), policy=replace(POLICY, approvals_count=True))
    assert [cause.ids for cause in work.due] == [("r50",)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("@coding-agent fix it", True),
        ("Could @Coding-Agent, please?", True),
        ("(@coding-agent)", True),
        ("fix it @coding-agent.", True),
        ("@coding-agent[bot] fix it", True),
        ("coding-agent fix it", False),
        ("@coding-agent-two fix it", False),
        ("@coding-agent/team", False),
        ("@coding-agent.org", False),
        ("mail me@coding-agent", False),
        ("octo/@coding-agent", False),
        ("> @coding-agent fix it\n\nThat was quoted.", False),
        ("> quoted\n\n@coding-agent fix it", True),
        ("`@coding-agent`", False),
        ("```\n@coding-agent\n```", False),
        ("```\ncode\n```\n@coding-agent", True),
        ("~~~text\n@coding-agent", False),
        ("<!-- @coding-agent -->", False),
        ("", False),
        ("Use `<pre>` and `<!--`, @coding-agent", True),
        ("<pre>\n@coding-agent\n\n</pre>", False),
        ("<pre>never closed\n\n@coding-agent", False),
        ("<PRE class='x'>a</PRE> @coding-agent", True),
        ("Call <code>@coding-agent</code> later", False),
        ("<blockquote>\n\n@coding-agent\n\n</blockquote>\n\nNo.", False),
        ("a\n\n    @coding-agent\n\nb", False),
        ("\t@coding-agent", False),
        ("- one\n\n    @coding-agent fix it", True),
        ("one\n    @coding-agent fix it", True),
        ("``a ` @coding-agent``", False),
        ("`a\n@coding-agent`", False),
        ("a ` b\n\n@coding-agent ` c", True),
        ("````\n```\n@coding-agent\n````", False),
        ("- ```\n  @coding-agent\n  ```\n", False),
        ("~~~\n```\n~~~\n@coding-agent", True),
        ("<!--\n```\n-->\n@coding-agent", True),
        ("```\n<pre>\n```\n@coding-agent", True),
        ("> quoted\n@coding-agent, and this line is quoted too", False),
        ("> quoted\n>\n@coding-agent fix it", True),
        ("> quoted\n- @coding-agent fix it", True),
        ("- > @coding-agent", False),
        ("1. > > @coding-agent", False),
        ("No.\n\nOn Tue, 1 Dec 2026 at 10:00, Anna <a@b.org> wrote:\n\n@coding-agent fix it", False),
        ("No.\n\nOn Tue, 1 Dec 2026 at 10:00, Anna <anna@example.org>\nwrote:\n@coding-agent", False),
        ("Am 1. Dezember 2026 um 10:00 schrieb Anna <a@b.org>:\n@coding-agent fix it", False),
        ("No.\n-----Original Message-----\n@coding-agent fix it", False),
        ("No.\n\nFrom: Anna <anna@example.org>\nSent: Tuesday\n\n@coding-agent fix it", False),
        ("On Tue, Anna wrote:\n> rename it\n\n@coding-agent do so", True),
        ("As Anna wrote: @coding-agent fix it", True),
        ("On Tuesday I wrote a test. @coding-agent fix it", True),
    ],
)
def test_mentions(body: str, expected: bool) -> None:
    assert mentions(body, "coding-agent") is expected
    assert mentions(body, "coding-agent[bot]") is expected
    assert not mentions(body, "")


@pytest.mark.parametrize(
    "part",
    [
        "<pre",
        "<pre>",
        "<!--",
        "`",
        "` ",
        "`` ` ",
        "> ",
        "On a wrote:\n",
        "- ",
        "    a\n\n",
        "_" * 19 + " ",
        "On ",
    ],
)
def test_mentions_take_time_in_proportion_to_the_text(part: str) -> None:
    """Quadratic time would be minutes here."""
    text = (part * (300_000 // len(part)))[:300_000]
    assert not mentions(f"{text}@somebody", "coding-agent")


def test_a_review_waits_for_quiet_after_its_last_remark() -> None:
    snapshot = change(threads=(thread(remark(1, second=100)), thread(remark(2, second=130))))
    work = decide(snapshot, now=at(189))
    assert not work.due
    assert (work.waiting[0].until, work.decide_again) == (at(190), at(190))
    assert decide(snapshot, now=at(190)).due[0].ids == ("t1", "t2")


def test_who_is_not_counted_prolongs_no_wait() -> None:
    noise = [remark(2, STRANGER, second=185), remark(3, OTHER_BOT, second=186), remark(4, OURS, second=187)]
    snapshot = change(threads=(thread(remark(1, second=100), *noise),))
    assert decide(snapshot, now=at(190)).due[0].ids == ("t1",)


def test_a_time_in_the_future_waits_no_longer_than_the_quiet() -> None:
    snapshot = change(threads=(thread(remark(1, second=999_999)),))
    assert decide(snapshot, now=at(100)).decide_again == at(160)


def test_unknown_permissions_are_asked_before_anything_starts() -> None:
    snapshot = change(threads=(thread(remark(1, ANNA), remark(2, OLAF)),), checks=(check(),))
    work = decide(snapshot, may_write=lambda login: True if login == "anna" else None)
    assert (work.due, work.ask) == ((), ("olaf",))
    assert decide(snapshot).due[0].ids == ("t1", "t2")


def test_nobody_asks_about_us_or_about_bots() -> None:
    asked: list[str] = []

    def ask(login: str) -> bool:
        asked.append(login)
        return True

    remarks = [remark(number, who) for number, who in enumerate((OURS, REVIEW_BOT, OTHER_BOT, NOISY), 1)]
    decide(change(threads=(thread(*remarks),)), may_write=ask)
    assert asked == []


def test_our_account_is_known_by_its_id_and_not_by_its_name() -> None:
    renamed = Actor("1", "coding-agent-renamed", ActorKind.BOT)
    twin = Actor("99", "coding-agent")
    assert not decide(change(threads=(thread(remark(1, renamed)),))).due
    assert decide(change(threads=(thread(remark(1, twin)),)), may_write=lambda _: True).due


def test_a_deleted_account_is_not_taken_for_ours() -> None:
    snapshot = change(own=Actor("", "coding-agent"), author=Actor("", "ghost"), threads=(thread(remark(1)),))
    assert not decide(snapshot).due


def test_remarks_of_a_round_that_failed_are_not_read_again() -> None:
    snapshot = change(threads=(thread(remark(1)),))
    for end in RoundEnd:
        record = ended(RoundRecord(), decide(snapshot).due[0], end)
        again = decide(snapshot, record).due
        assert [cause.ids for cause in again] == ([("t1",)] if end is RoundEnd.SUPERSEDED else [])


REQUESTED_ON_GITLAB = change(
    reviews=(review(2, verdict=ReviewVerdict.CHANGES_REQUESTED, body="", second=None),),
    comments=(remark(1), remark(2)),
)


@pytest.mark.parametrize(
    ("snapshot", "kind"), [(change(threads=(thread(remark(1), remark(2)),)), "t"), (REQUESTED_ON_GITLAB, "c")]
)
def test_a_remark_without_a_reply_is_read_by_one_further_round(snapshot: ChangeSnapshot, kind: str) -> None:
    owed, record = f"{kind}1", RoundRecord()
    for ids in ((owed, f"{kind}2"), (owed,)):
        [due] = decide(snapshot, record).due
        assert due.ids == ids
        record = ended(record, due, owed=(owed,))
    assert not decide(snapshot, record).due
    assert record.settled == {f"{kind}1", f"{kind}2"}
    assert not record.owed


def test_a_remark_that_the_further_round_answers_is_settled() -> None:
    snapshot = change(threads=(thread(remark(1)),))
    record = ended(RoundRecord(), decide(snapshot).due[0], owed=("t1",))
    assert not record.settled
    assert record.owed == {"t1"}
    record = ended(record, decide(snapshot, record).due[0])
    assert record.settled == {"t1"}
    assert not record.owed


def test_a_superseded_round_is_decided_again_under_another_name_and_the_same_number() -> None:
    snapshot = change(threads=(thread(remark(1)),))
    first = decide(snapshot).due[0]
    record = ended(RoundRecord(), first, RoundEnd.SUPERSEDED)
    second = decide(replace(snapshot, head_commit=sha("a person's")), record).due[0]
    assert second.name_part != first.name_part
    assert (second.count, first.count) == ("round 1 of 5", "round 1 of 5")


def test_a_remark_on_lines_that_our_push_changed_meanwhile_is_not_lost() -> None:
    """While a round fixes the checks, somebody comments on the lines that it changes."""
    cause = decide(change(checks=(check(),))).due[0]
    record = ended(RoundRecord(), cause, head=sha("head 2"))
    outdated = thread(remark(1, commit=HEAD), outdated=True)
    snapshot = change(head_commit=sha("head 2"), threads=(outdated,))
    assert decide(snapshot, record).due[0].ids == ("t1",)
    by_a_person = thread(remark(1, commit=sha("head 2")), outdated=True)
    assert not decide(replace(snapshot, head_commit=sha("head 3"), threads=(by_a_person,)), record).due


def test_a_remark_on_lines_that_another_run_of_ours_changed_is_not_lost() -> None:
    """Somebody comments and replies while the issue has another run, which does not read remarks."""
    outdated = thread(remark(1, second=100), remark(2, OLAF, "And why?", second=300), outdated=True)
    snapshot = change(head_commit=sha("head 2"), threads=(outdated,))
    assert not decide(snapshot).due

    def pushed(*actors: Actor) -> ChangeSnapshot:
        events = (ChangeEvent(ChangeEventKind.PUSHED, actor, at(200 + n)) for n, actor in enumerate(actors))
        return replace(snapshot, events=tuple(events))

    for seen in (replace(snapshot, replaced_by_us=frozenset({HEAD})), pushed(OURS), pushed(OURS, ANNA)):
        assert decide(seen).due[0].ids == ("t1", "t2")
    for seen in (replace(snapshot, replaced_by_us=frozenset({BASE})), pushed(ANNA, OURS)):
        assert not decide(seen).due


def test_the_forges_numbers_and_not_its_clock_tell_what_came_first() -> None:
    """The forge's clock is ahead while somebody comments, and is set back before our run pushes."""
    snapshot = change(threads=(thread(remark(10, second=290), outdated=True),))

    def pushed(*pushes: tuple[int, Actor]) -> ChangeSnapshot:
        events = (
            ChangeEvent(ChangeEventKind.PUSHED, actor, at(200 + number), number=number)
            for number, actor in pushes
        )
        return replace(snapshot, events=tuple(events))

    for seen in (pushed((11, OURS)), pushed((9, ANNA), (11, OURS), (12, ANNA))):
        assert decide(seen).due[0].ids == ("t10",)
    for seen in (pushed((9, OURS)), pushed((9, OURS), (11, ANNA), (12, OURS))):
        assert not decide(seen).due


def test_a_large_review_is_answered_in_parts() -> None:
    threads = tuple(thread(remark(number, second=number)) for number in range(1, IDS_LIMIT + 6))
    snapshot = change(threads=threads)
    first = decide(snapshot).due[0]
    assert len(first.ids) == IDS_LIMIT
    record = ended(RoundRecord(), first)
    assert decide(snapshot, record).due[0].ids == tuple(f"t{number}" for number in range(31, 36))


def test_a_large_review_by_a_bot_leaves_room_for_people() -> None:
    of_bot = (thread(remark(number, REVIEW_BOT, second=number)) for number in range(1, IDS_LIMIT + 6))
    cause = decide(change(threads=(*of_bot, thread(remark(99, second=900))))).due[0]
    assert len(cause.ids) == IDS_LIMIT
    assert "t99" in cause.ids


def test_gitlab_comments_before_the_last_review_round_are_read() -> None:
    requested = review(2, verdict=REQUESTED, body="", second=None)
    snapshot = change(reviews=(requested,), comments=(remark(9, second=100),))
    record = ended(RoundRecord(), decide(snapshot).due[0])
    assert not decide(snapshot, record).due
    # The second time is one after the forge's clock was set back.
    for second in (200, 90):
        more = replace(snapshot, comments=(*snapshot.comments, remark(10, second=second)))
        assert decide(more, record).due[0].ids == ("c10",)


ASKED_ANNA: dict[str, Any] = {"kind": ChangeEventKind.REVIEW_REQUESTED, "actor": OURS, "reviewer": "anna"}
REQUESTED_BY_ANNA: dict[str, Any] = {"kind": ChangeEventKind.CHANGES_REQUESTED, "actor": ANNA}


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        pytest.param([(22, REQUESTED_BY_ANNA), (23, ASKED_ANNA)], ("c21",), id="taken back by us"),
        pytest.param(
            [(15, ASKED_ANNA), (22, REQUESTED_BY_ANNA), (23, ASKED_ANNA)], ("c21",), id="asked twice"
        ),
        pytest.param(
            [(22, REQUESTED_BY_ANNA), (23, ASKED_ANNA), (24, ASKED_ANNA)], ("c21",), id="and asked once more"
        ),
        pytest.param([(12, ASKED_ANNA)], (), id="written after we asked"),
        pytest.param([(12, ASKED_ANNA), (23, ASKED_ANNA)], (), id="nothing was requested since"),
        pytest.param([(22, REQUESTED_BY_ANNA), (23, ASKED_ANNA | {"actor": OLAF})], (), id="a person asked"),
        pytest.param([(22, REQUESTED_BY_ANNA), (23, ASKED_ANNA | {"reviewer": "olaf"})], (), id="of another"),
        pytest.param(
            [
                (22, REQUESTED_BY_ANNA),
                (23, {"kind": ChangeEventKind.APPROVED, "actor": ANNA}),
                (24, ASKED_ANNA),
            ],
            (),
            id="approved meanwhile",
        ),
        pytest.param(
            [
                (22, REQUESTED_BY_ANNA),
                (23, ASKED_ANNA),
                (24, {"kind": ChangeEventKind.APPROVED, "actor": ANNA}),
            ],
            (),
            id="approved later",
        ),
    ],
)
def test_our_request_for_another_review_hides_no_text_of_a_review_on_gitlab(
    more: list[tuple[int, dict[str, Any]]], ids: tuple[str, ...]
) -> None:
    """Anna requests changes, and again just before we ask for another review. The times are of no use."""
    events = [ChangeEvent(at=at(50), number=11, **REQUESTED_BY_ANNA)]
    requested = review(2, verdict=REQUESTED, body="", second=None)
    snapshot = change(reviews=(requested,), comments=(remark(10),), events=tuple(events))
    record = ended(RoundRecord(), decide(snapshot).due[0])
    events += [ChangeEvent(at=at(50), number=number, **fields) for number, fields in more]
    comments = (remark(10), remark(21, body="And this.", second=40))
    later = replace(snapshot, reviews=(), comments=comments, events=tuple(events))
    assert [cause.ids for cause in decide(later, record).due] == ([ids] if ids else [])
    if ids:
        record = ended(record, decide(later, record).due[0])
        assert not decide(later, record).due, "it is read once"


def test_people_who_talk_start_one_round_for_all_that_they_said() -> None:
    talk = [remark(number, (ANNA, OLAF)[number % 2], second=100 + number) for number in range(1, 20)]
    work = decide(change(threads=(thread(*talk),)), now=LATER)
    assert len(work.due) == 1
    assert len(work.due[0].ids) == 19
