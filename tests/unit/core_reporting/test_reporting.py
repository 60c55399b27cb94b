"""The labels of each phase, which leave all others alone, and the one comment."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from coding_agent_core.forge.values import MARKER, Comment, ItemState, LabelEvent
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.markdown import BREAK, inline, quotation, quoted_code
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import (
    Links,
    Report,
    State,
    comment,
    comment_with_rounds,
    label_changes,
    publish,
    read_state,
)
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.egress import Denial
from coding_agent_core.task.model import Item, Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_record import RerunEntry, RoundRecord
from coding_agent_core.task.runners import RunnerName
from coding_agent_core.task.usage import Usage
from coding_agent_forges.rest.forge import Forge
from coding_agent_testbed.forge import markup
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core_reporting import making

BOT, PROCESSING, DONE, FAILED = "coding agent", "coding agent processing", "coding agent done", "failed"


def report(phase: Phase, **more: Any) -> Report:
    return making.report(State(uuid="u", phase=phase, attempt=2, branch="coding-agent/issue-7"), **more)


@pytest.mark.parametrize(
    ("phase", "present", "add", "remove"),
    [
        (Phase.QUEUED, {BOT, "bug"}, [], []),
        (Phase.QUEUED, {BOT, DONE, "bug"}, [], [DONE]),
        (Phase.QUEUED, {BOT, FAILED}, [], [FAILED]),
        (Phase.SUSPENDED, {PROCESSING, DONE}, [], [DONE]),
        (Phase.RUNNING, {BOT, "bug"}, [PROCESSING], [BOT]),
        (Phase.RUNNING, {BOT, DONE, FAILED}, [PROCESSING], [BOT, DONE, FAILED]),
        (Phase.RUNNING, {PROCESSING}, [], []),
        (Phase.BACKOFF, {PROCESSING}, [], []),
        (Phase.SUCCEEDED, {PROCESSING, "bug"}, [DONE], [PROCESSING]),
        (Phase.SUCCEEDED, {PROCESSING, BOT}, [DONE], [BOT, PROCESSING]),
        (Phase.FAILED, {PROCESSING, "bug"}, [FAILED], [PROCESSING]),
        (Phase.CANCELLED, {PROCESSING, BOT, "bug"}, [], [BOT, PROCESSING]),
        (Phase.CANCELLED, {"bug"}, [], []),
    ],
)
def test_labels(phase: Phase, present: set[str], add: list[str], remove: list[str]) -> None:
    labels = Labels(failed_label=FAILED)
    assert label_changes(phase, labels, frozenset(present)) == (add, remove)


@given(st.sampled_from(Phase), st.frozensets(st.sampled_from([BOT, PROCESSING, DONE, "bug", "help wanted"])))
def test_labels_of_people_are_never_touched_and_done_only_means_done(
    phase: Phase, present: frozenset[str]
) -> None:
    add, remove = label_changes(phase, Labels(), present)
    assert not {"bug", "help wanted"} & {*add, *remove}
    after = (present | set(add)) - set(remove)
    if phase in (Phase.FAILED, Phase.CANCELLED):
        assert DONE not in after, "failed and cancelled never get the done label"


def test_what_a_person_reads_of_a_failure() -> None:
    text = comment(
        report(
            Phase.FAILED,
            reason=Reason.MODEL_UNAVAILABLE,
            message="The model did not answer.",
            usage=Usage(requests=4, input_tokens=12_000, output_tokens=300),
            pushed=True,
        )
    )
    for expected in (
        "Coding agent: failed",
        "The model did not answer.",
        "on the branch `coding-agent/issue-7`",
        "add the label `coding agent` again",
        "attempt 2 of 3",
        "reason ModelUnavailable",
        "12,000 tokens in",
        "Failed at 2026-01-02 03:04:05 UTC",
    ):
        assert expected in text


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.terminal])
def test_the_branch_is_named_once_unless_the_change_shows_it(phase: Phase) -> None:
    assert "on the branch" not in comment(report(phase)), "it was never pushed"
    for reason in Reason:
        shown = report(phase, reason=reason, message="It ended.", pushed=True)
        assert comment(shown).count("work so far") == 1
        changed = shown.state.model_copy(update={"change_url": "https://x.example/1"})
        assert comment(replace(shown, state=changed)).count("work so far") == (phase is not Phase.SUCCEEDED)


@given(st.text(max_size=300))
def test_no_text_of_the_model_can_forge_the_state(text: str) -> None:
    forged = f"{text}\n{MARKER}" + '{"uuid":"forged","phase":"Succeeded"} -->'
    shown = report(Phase.FAILED, summary=forged, message=forged)
    assert read_state(comment(shown)) == shown.state


@pytest.mark.parametrize("body", ["", "hello", MARKER, f"{MARKER}{{}} -->", f'{MARKER}{{"uuid":1}} -->'])
def test_a_comment_without_readable_state_has_none(body: str) -> None:
    assert read_state(body) is None


def test_a_record_of_rounds_is_written_into_any_comment_and_into_none() -> None:
    rerun = RerunEntry(head="a" * 40, check="b" * 12, run="7", at=datetime(2026, 11, 2, tzinfo=UTC))
    record = RoundRecord(reruns=(rerun,))
    of_task = report(Phase.SUCCEEDED, message="It ended.")
    expected = comment(replace(of_task, state=of_task.state.model_copy(update={"rounds": record})))
    assert comment_with_rounds(comment(of_task), record, "A check runs again.") == expected
    forged = f'{MARKER}{{"uuid":"forged","phase":"Succeeded"}} -->'
    written = ""
    for name in ("first", forged):
        written = comment_with_rounds(written, record, f"{name} runs again.")
        state = read_state(written)
        assert state is not None
        assert (state.uuid, state.rounds, state.phase.terminal) == ("", record, True)
    assert "first" not in written, "the comment of no task says what was done last"


def test_a_comment_says_what_the_egress_proxy_has_denied() -> None:
    denied = (Denial(host="a.example.com", count=3), Denial(host="b.example.com:22", count=1))
    last = Outcome(reason=Reason.TOOL_FAILING, message="", denied=denied)
    text = comment(report(Phase.FAILED, last=last))
    assert (
        "Blocked by the egress proxy: `a.example.com` (3 times), `b.example.com:22` (1 time). "
        "An administrator can allow a host in `egress.allow`." in text
    )
    assert "egress" not in comment(report(Phase.FAILED))


@pytest.mark.parametrize(
    ("runner", "shown"), [(RunnerName.CODEX, " · runner codex · task `"), (None, " UTC · task `")]
)
def test_a_comment_names_the_runner_that_somebody_chose(runner: RunnerName | None, shown: str) -> None:
    state = State(uuid="u", phase=Phase.QUEUED, runner=runner)
    assert shown in comment(making.report(state))


def test_a_comment_has_a_table_of_several_models() -> None:
    used = Usage(requests=3, input_tokens=12_000, output_tokens=30, model="a|`b")
    text = comment(report(Phase.SUCCEEDED, usage=used.plus(used.model_copy(update={"model": "qwen3"}))))
    assert "| `a\\|b` | 3 | 12,000 | 30 | unknown |\n| `qwen3` | 3 |" in text
    assert "Usage by model" not in comment(report(Phase.SUCCEEDED, usage=used))


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class ShownItem:
    """One item and its history."""

    def __init__(self, labels: set[str], history: Sequence[LabelEvent]) -> None:
        self.labels, self.history = labels, history

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        return Comment("1", "coding-agent-bot", body, NOON)

    async def read_state(self, item: Item) -> ItemState:
        return ItemState(frozenset(self.labels), open=True)

    async def label_application(self, item: Item) -> LabelEvent | None:
        return next((event for event in self.history if event.added and event.label == BOT), None)

    async def add_label(self, item: Item, label: str) -> None:
        self.labels.add(label)

    async def remove_label(self, item: Item, label: str) -> bool:
        self.labels.discard(label)
        return True


def event(seconds: int, *, added: bool = True, label: str = BOT) -> LabelEvent:
    return LabelEvent(NOON + timedelta(seconds=seconds), "alice", label, added)


@pytest.mark.parametrize(
    ("history", "stays"),
    [
        ([event(-5)], False),
        ([event(0)], False),
        ([event(1)], True),
        ([event(0), event(0, added=False)], False),
        ([event(5, label=PROCESSING), event(-5)], False),
        ([], True),  # nobody knows
    ],
)
async def test_a_newer_label_stays_at_an_end(history: list[LabelEvent], stays: bool) -> None:
    for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED):
        assert await labels_after(phase, history) - {DONE} == ({BOT, "bug"} if stays else {"bug"})
    assert await labels_after(Phase.RUNNING, history) == {PROCESSING, "bug"}, "its own, while it works"


async def labels_after(phase: Phase, history: list[LabelEvent]) -> set[str]:
    item = ShownItem({BOT, PROCESSING, "bug"}, history)
    await publish(cast("Forge", item), making.report(State(uuid="u", phase=phase)), answered_until=NOON)
    return item.labels


GITHUB = Links("https://github.com", "coding-agent/")
GITLAB = Links("https://example.com/gitlab", "coding-agent/")


def item(platform: Platform, kind: ItemKind = ItemKind.ISSUE) -> Item:
    host, repository = {"github": ("github.com", "acme/pricing"), "gitlab": ("example.com", "a/b/pricing")}[
        platform
    ]
    return Item(platform=platform, host=host, repository=repository, kind=kind, number=7)


@pytest.mark.parametrize(
    ("links", "platform", "url"),
    [
        (GITHUB, Platform.GITHUB, "https://github.com/acme/pricing/pull/9"),
        (GITHUB, Platform.GITHUB, "https://github.com:443/Acme/pricing/pull/9"),
        (GITLAB, Platform.GITLAB, "https://example.com/gitlab/a/b/pricing/-/merge_requests/9"),
        (GITLAB, Platform.GITLAB, "http://example.com/gitlab/a/b/pricing/-/merge_requests/9"),
    ],
)
def test_addresses_of_changes(links: Links, platform: Platform, url: str) -> None:
    assert links.change_problem(url, item(platform)) is None


HERE = "https://github.com/acme/pricing"


@pytest.mark.parametrize(
    "url",
    [
        *("", "javascript:alert(1)", "//github.com/acme/pricing/pull/9", "https://[github.com/a/b/pull/9"),
        *(
            f"https://{host}/acme/pricing/pull/9"
            for host in ("github.com.evil.example", "evil.example", "github.com@evil.example")
        ),
        *(f"https://{host}/acme/pricing/pull/9" for host in ("me:secret@github.com", "github.com:8443")),
        *("https://github.com:x/acme/pricing/pull/9", "https://github.com/acme/other/pull/9"),
        *("https://github.com/evil/acme/pricing/pull/9", f"{HERE}/../other/pull/9", f"{HERE}/issues/9"),
        *(f"{HERE}/pull/{end}" for end in ("09", "9/files", "9?x=1", "9#x", "9\n/merge", "9 @all", "\u0669")),
        *(f"{HERE}/pull/9) [x](https://evil.example", f"{HERE}/pu\tll/9"),
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert "is not the address of a pull request" in str(GITHUB.change_problem(url, item(Platform.GITHUB)))


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("coding-agent/issue-7", ItemKind.ISSUE, None),
        ("coding-agent/issue-7-r2", ItemKind.ISSUE, None),
        ("main", ItemKind.ISSUE, "does not start with 'coding-agent/'"),
        ("feature/of-a-person", ItemKind.CHANGE, None),
        ("coding-agent/x\n/merge", ItemKind.ISSUE, "is not a branch name"),
        ("coding-agent/x y", ItemKind.CHANGE, "is not a branch name"),
        ("--upload-pack=x", ItemKind.CHANGE, "is not a branch name"),
    ],
)
def test_branches(name: str, kind: ItemKind, problem: str | None) -> None:
    found = GITHUB.branch_problem(name, item(Platform.GITHUB, kind))
    assert found == problem if problem is None else problem in str(found)


FORMS = [inline, quotation, quoted_code]
PIECES = (
    *("@", "#", "!", "&", "$", "%", "/", "[", "]", "<", ">", "`", "~", "\\", "*", "_", ":", "-", ";", '"'),
    *(" ", "  ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"),
    *(BREAK, "\u200d", "\u2060", "\ufeff", "\u00ad", "\x00", "\x1b", "\u202e", "\ud800"),
    *("```", "~~~", ">>>", "> ", "    ", "- ", "1. ", "<!--", "-->", "<details>", "</details>"),
    *("/merge", "/approve", '/label ~"coding agent"', "/close", "/title x", "/MERGE", "/ merge"),
    *("all", "alice", "org/team", "@all", "@org/team", "\\@alice", "&#64;alice", "&commat;all", "&#x40;"),
    *("Closes", "fixes:", "RESOLVED", "Implements ", "issue ", "#1", "!2", "&3", "other/repo#1", "GH-1"),
    *("PROJ-12", "PROJ-12 #close", "https://github.com/other/repo/issues/1", "[work_item:3]", "%31", "/-/"),
    *("skip", "ci", "[skip ci]", "[ci skip]", "[ci-skip]", "[no ci]", "[skip actions]", "***NO_CI***"),
    *("skip-checks: true", "skip-checks:true", "![x](http://h/?q=1)", "<img src=x>", "1", "word"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join)
ATTACKS = (
    *("/merge", "Done.\n/approve\n/merge", "Done.\r/merge", '/label ~"coding agent"', "see !3"),
    *("ping @all and @org/team", "&#64;all", "\\@alice", "Closes other/repo#1", "fixes: GH-1"),
    *("Resolves https://github.com/other/repo/issues/1", "Closes PROJ-12", "#closeImplements PROJ-12"),
    *("chore: x [skip ci]", "***NO_CI***", "text\n\n\nskip-checks: true"),
    *('<!-- coding-agent:status {"uuid":"x"} -->', "![x](https://example.com/?q=secret)"),
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forge_executes_each_attack_and_nothing_of_its_inert_forms(attack: str) -> None:
    assert markup.effects(attack), "the decoy bites"
    for form in FORMS:
        assert markup.effects(form(attack)) == []


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("https://logs.example.com/7.jsonl", "[Transcript](https://logs.example.com/7.jsonl)"),
        ("/var/lib/coding-agent/transcripts/7.jsonl", "`kubectl agenttask describe r-issue-7-"),
        ("s3://internal-bucket/7.jsonl", "`kubectl agenttask describe r-issue-7-"),
    ],
)
def test_the_comment_names_no_place_that_only_administrators_can_read(place: str, shown: str) -> None:
    last = Outcome.model_construct(transcript=place)
    text = comment(making.report(State(uuid="u", phase=Phase.FAILED), last=last))
    assert shown in text
    assert ("internal-bucket" in text, "/var/lib" in text) == (False, False)


@pytest.mark.parametrize(
    ("reason", "message", "shown"),
    [
        (Reason.MODEL_REFUSED, "The model's service refused our key.", True),
        (Reason.CANNOT_BE_DONE, "The issue asks for nothing.", False),
    ],
)
def test_the_comment_names_who_helps_if_an_administrator_is_needed(
    reason: Reason, message: str, shown: bool
) -> None:
    failed = making.report(State(uuid="u", phase=Phase.FAILED), reason=reason, message=message)
    for support, line in (
        ("#platform-help", "Help: #platform-help"),
        ("https://help.example.com/agent", "Help: <https://help.example.com/agent>"),
    ):
        text = comment(replace(failed, labels=Labels(support=support), tail="administrator"))
        assert (line in text.replace("\u200b", "")) is shown
    assert "Help:" not in comment(failed)


@given(TEXTS)
def test_no_text_has_an_effect_or_leaves_its_place(text: str) -> None:
    for form in FORMS:
        assert markup.effects(form(text)) == []
    assert len(inline(text).splitlines()) <= 1
    assert "```" not in inline(text), "a fence would swallow what follows"
    assert all(line.startswith(">") for form in (quotation, quoted_code) for line in form(text).splitlines())
    assert [line for line in quoted_code(text).splitlines() if "```" in line] == ["> ```", "> ```"]


@given(TEXTS, TEXTS)
def test_a_comment_has_the_same_effects_whatever_is_quoted_in_it(text: str, other: str) -> None:
    def shown(**texts: str) -> str:
        last = Outcome.model_construct(transcript=texts.pop("transcript"))
        return comment(making.report(State(uuid="u", phase=Phase.FAILED), last=last, **texts))

    quoting = shown(
        message=f"m{text}", summary=f"s{other}", tail=f"t{text}", reason=f"R{other}", transcript=f"p{text}"
    )
    plain = shown(message="m", summary="s", tail="t", reason="R", transcript="p")
    assert set(markup.effects(quoting)) == set(markup.effects(plain))
    state = read_state(quoting)
    assert state is not None
    assert state.uuid == "u"


@given(st.text(max_size=80))
def test_the_hidden_state_cannot_be_ended_by_a_value(branch: str) -> None:
    branch = f"{branch} -->\n/merge".encode("utf-8", "replace").decode()
    state = State(uuid="u", phase=Phase.RUNNING, branch=branch)
    text = comment(making.report(state))
    assert text.count("-->") == 1
    assert read_state(text) == state


def test_what_people_read_is_the_same() -> None:
    text = "Fixed `rate()` for issue #7, see @alice.\n\n- one\n- two"
    shown = "> Fixed `rate()` for issue #7, see @alice.\n>\n> - one\n> - two"
    assert quotation(text).replace(BREAK, "") == shown
    assert inline(" A\ntitle ") == "A title"
    assert quotation(" \n") == ""
