"""Shows a task on its item: the labels for a phase, the text of our only comment, and the links in it.

The comment also contains the task's state in a hidden HTML comment. RabbitMQ does not know items, so after a
crash a consumer reads from the comment whether a task was started before.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AwareDatetime, BeforeValidator, Field, ValidationError, field_serializer, model_validator

from coding_agent_core.errors import ForgeListTooLongError
from coding_agent_core.forge.item_forge import ItemForge
from coding_agent_core.forge.values import MARKER, LabelEvent, hidden_line
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.markdown import inline, quotation, quoted_code
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.egress import Denial
from coding_agent_core.task.model import Frozen, Item, Phase, RoundTrigger
from coding_agent_core.task.reasons import Reason, advice
from coding_agent_core.task.round_cause import RoundKind
from coding_agent_core.task.round_record import RoundRecord, stored_record
from coding_agent_core.task.runners import RunnerName
from coding_agent_core.task.usage import Usage, sum_of
from coding_agent_core.task.verification import Evidence, SideEvidence, VerifiedCommand

if TYPE_CHECKING:
    from coding_agent_core.task.agenttask import AttemptStatus

EVERY_LABEL_STAYS = datetime.min.replace(tzinfo=UTC)
"""The `answered_until` of a task that answers no label, or if it is not known which labels it answers."""
_NOTES_MARK = "<!-- coding-agent:notes -->"
_NOTES = re.compile(rf"^(?!>).*{_NOTES_MARK}(?:\n\n|\n?\Z)", re.MULTILINE)
_ROUNDS_MARK = "<!-- coding-agent:rounds -->"
_ROUNDS = re.compile(rf"^(?!>).*{_ROUNDS_MARK}(?:\n\n|\n?\Z)", re.MULTILINE)
_TAIL_LIMIT = 2_000
_CAUSE_LIMIT = 1_000
_SUMMARY_LIMIT = 8_000
"""Maximum number of characters of the agent's summary. GitHub accepts 65,536 for the whole comment."""

_WORTH = (
    "The commands ran on the pushed commit, in a pod that has neither the agent nor its workspace. The "
    "repository decides what the commands test: the agent may have edited the tests."
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class State(Frozen):
    """The hidden part of the comment.

    Attributes:
        uuid: the task's; empty if the comment has only the record of rounds, because there was no task.
        attempt: the number of the attempt; 0 while the task waits for its first one.
        reason: why the task or its last attempt ended.
        branch: the branch for the work, whether or not it was pushed.
        user: the login of the person who asked for the task.
        retry_cause: why the attempt is not the first, if no AgentTask says so.
        rounds: the rounds of a change.
        round: what caused the task if it is a round, and no AgentTask says so.
        usage: how much the attempts of the round that have ended used the model, if no AgentTask says so.
        statuses: the commit statuses that were written, so that each is written once.
        answered: the position up to which the item's past runs answer its events (`labels.Position`).
        answered_until: at the end of a task, as for `show_labels`, if no AgentTask says so.
    """

    uuid: str
    run: int = 1
    attempt: int = 1
    phase: Phase
    reason: str | None = None
    branch: str | None = None
    change_url: str | None = None
    runner: RunnerName | None = None
    user: str | None = None
    retry_cause: str | None = None
    rounds: Annotated[RoundRecord | None, BeforeValidator(stored_record)] = None
    round: RoundTrigger | None = None
    usage: Usage | None = None
    statuses: tuple[str, ...] = ()
    answered: str | None = Field(default=None, max_length=64)
    answered_until: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_process(cls, data: Any) -> Any:
        # A release before 0.1.0 named the process that had the task in its memory.
        return {key: data[key] for key in data if key != "process"} if isinstance(data, Mapping) else data

    @field_serializer("rounds")
    def _short(self, rounds: RoundRecord | None) -> Any:
        return None if rounds is None else json.loads(rounds.to_json())

    @property
    def waits_for_first_attempt(self) -> bool:
        return self.phase is Phase.QUEUED and self.attempt == 0


@dataclass(frozen=True)
class Report:
    """The state of a task for people, both for AgentTasks and for tasks in a queue.

    Attributes:
        since: when the phase began, as an aware time.
        activity: the headline while the phase is Starting or Running.
        position: the position in the queue, from 1.
        next_attempt: when the next attempt starts, in the phase Backoff.
        reason: one CamelCase word, from an attempt or from the cluster.
        message: one sentence about the end of the task or about the last attempt.
        pushed: whether the state's branch exists on the forge.
        began: whether any attempt has started.
        tail: the last lines of a failed attempt's log, as plain text.
        last: the last attempt, with its transcript's place and the hosts that the egress proxy denied to it.
        round: which round of its kind the task is, as a phrase; empty if it is not a round.
        notes: what the change's next round waits for, or why there is none, as sentences.
        evidence: the results of the commands that check the work, in evidence pods.
        rounds: the rounds of the change that the task for an issue opened (`summary_of`).
    """

    task: str
    item: Item
    labels: Labels
    state: State
    max_attempts: int
    since: datetime
    activity: str = "working on it"
    position: int | None = None
    next_attempt: datetime | None = None
    reason: str | None = None
    message: str = ""
    summary: str = ""
    usage: Usage = field(default_factory=Usage)
    pushed: bool = False
    began: bool = True
    tail: str = ""
    last: Outcome | AttemptStatus | None = None
    round: str = ""
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None
    rounds: str = ""


@dataclass(frozen=True)
class Links:
    """The check whether a branch and a change can be the work of a task.

    The agent reports both from its pod, and a compromised agent can report anything.

    Attributes:
        web: the forge's web address, without a trailing slash.
        branch_prefix: the beginning of branches for issues; a change has its own branch.
    """

    web: str
    branch_prefix: str

    def change_problem(self, url: str, item: Item) -> str | None:
        """Return why a URL is not the address of a change in the item's repository; `None` if it is."""
        facts, ours = FACTS[item.platform], urlsplit(self.web)
        path = f"{ours.path}/{item.repository}/{facts.change_path}"
        try:
            parts = urlsplit(url)
            whole = url == f"{parts.scheme}://{parts.netloc}{parts.path}"
            same = whole and _host(parts) == _host(ours) and "@" not in parts.netloc
        except ValueError:
            same = False
        if same and re.fullmatch(re.escape(path) + r"/[1-9][0-9]{0,9}", parts.path, re.IGNORECASE):
            return None
        return f"{url[:200]!r} is not the address of a {facts.change_noun} below {self.web}/{item.repository}"

    def branch_problem(self, name: str, item: Item) -> str | None:
        """Return why the task's work cannot be on a branch with this name; `None` if it can."""
        if not is_branch_name(name):
            return f"{name[:200]!r} is not a branch name"
        if item.kind is ItemKind.ISSUE and not name.startswith(self.branch_prefix):
            return f"the branch {name[:200]!r} does not start with {self.branch_prefix!r}"
        return None


def is_branch_name(name: str) -> bool:
    """Whether git accepts the name of a branch (git-check-ref-format) and never takes it for an option."""
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|\.lock(/|$)|(^|/)\.|[./]$", name)
    return not (bad or not name or name.startswith(("-", "/")) or name == "@" or len(name) > 240)


def _host(parts: SplitResult) -> tuple[str | None, int | None]:
    """Return host and port, without the scheme, which may be another one inside the cluster."""
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{parts.scheme!r} is not http(s)")
    default = _DEFAULT_PORTS[parts.scheme]
    return parts.hostname, None if parts.port in (None, default) else parts.port


async def publish(forge: ItemForge, report: Report, *, answered_until: datetime | None = None) -> None:
    """Write the comment, then show the phase with labels. The call can be repeated.

    The comment comes first because a consumer reads it after a crash: if the labels changed without the
    comment, no program would remember the task.

    Args:
        answered_until: at the end of a task, a label that asks for a task stays if it was applied after this
            time, by the forge's clock. Such a label asks for the next task. With `EVERY_LABEL_STAYS`, all of
            these labels stay, and not only at the end.
    """
    await forge.upsert_comment(report.item, MARKER, comment(report))
    phase = report.state.phase
    await show_labels(forge, report.item, report.labels, phase, answered_until=answered_until)


async def show_labels(
    forge: ItemForge, item: Item, labels: Labels, phase: Phase, *, answered_until: datetime | None
) -> None:
    """Add the labels of a phase, then remove those of other phases.

    Args:
        answered_until: at the end of a task, a label that asks for a task stays if it was applied after this
            time, by the forge's clock. With `EVERY_LABEL_STAYS`, all of these labels stay in any phase.
    """
    seen = await forge.read_state(item)
    add, remove = label_changes(phase, labels, seen.labels)
    if answered_until == EVERY_LABEL_STAYS:
        remove = [label for label in remove if label not in labels.triggers]
    elif phase.terminal and answered_until is not None and labels.triggers & set(remove):
        try:
            applied = await forge.label_application(item)
        except ForgeListTooLongError:
            applied = None
        # If the history does not show who applied the label and when, it may ask for the next task.
        if applied is None or applied.at > answered_until:
            remove = [label for label in remove if label not in labels.triggers]
    await swap_labels(forge, item, add, remove)


async def swap_labels(forge: ItemForge, item: Item, add: Iterable[str], remove: Iterable[str]) -> None:
    """Add labels, then remove others."""
    # In this order, the item in the `unlabeled` event still has one of our labels. An event without any would
    # look like a person's cancellation.
    for label in add:
        await forge.add_label(item, label)
    for label in remove:
        await forge.remove_label(item, label)


def label_changes(phase: Phase, labels: Labels, present: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the labels to add and to remove so that the item shows the phase. Other labels stay."""
    wanted: set[str] = set()
    match phase:
        case Phase.QUEUED | Phase.SUSPENDED:
            # The label that asks for the task stays until the task starts, unlike labels of an earlier end.
            wanted = set(labels.active & present)
        case Phase.STARTING | Phase.RUNNING | Phase.BACKOFF:
            wanted = {labels.processing_label}
        case Phase.SUCCEEDED:
            wanted = {labels.done_label}
        case Phase.FAILED:
            wanted = {labels.failed_label} if labels.failed_label else set()
        case Phase.CANCELLED:
            pass
    ours = labels.active | {labels.done_label, labels.failed_label}
    add = [label for label in sorted(wanted) if label not in present]
    remove = [label for label in sorted(filter(None, ours - wanted)) if label in present]
    return add, remove


def last_act(
    shown: Collection[str], labels: Labels, history: Sequence[LabelEvent], own_login: str
) -> LabelEvent | None:
    """Return the last change that a person made to our labels, if it decides whether work is wanted.

    Such a change is the application of a label that asks for a task, or the removal of the last label. After
    a removal the item can nevertheless show a label:

    1. We read the item.
    2. The person removes the label.
    3. We add the processing label.

    Args:
        shown: the labels of ours that the item shows.
        history: the label events, read after the item; the newest is first.
        own_login: the login of our own account, which applies labels that ask for a task only on a command.
    """
    left = set(shown)
    for event in history:
        if event.added and event.label in labels.triggers:
            return event
        if event.user.casefold() != own_login.casefold():
            return None if event.added or left else event
        (left.discard if event.added else left.add)(event.label)
    return None


def comment(report: Report) -> str:
    """Return the comment in Markdown, with the hidden state as its last line. Foreign text is inert."""
    state = report.state
    lines = [f"**Coding agent: {_headline(report)}**", ""]
    if report.message:
        lines += [inline(report.message), ""]
    if report.notes:
        lines += [_noted(report.notes), ""]
    if state.change_url:
        lines += [_change_line(report.item, state.change_url), ""]
    if rounds := report.rounds or summary_of(state.rounds or RoundRecord()):
        lines += [_rounds_line(report.item, rounds), ""]
    shown_by_change = state.change_url and state.phase is Phase.SUCCEEDED
    if state.branch and report.pushed and state.phase.terminal and not shown_by_change:
        branch = inline(state.branch).replace("`", "")
        lines += [f"The work so far is on the branch `{branch}`.", ""]
    if report.summary:
        lines += [quotation(_cut(report.summary, _SUMMARY_LIMIT)), ""]
    if state.phase in (Phase.FAILED, Phase.CANCELLED):
        hint = advice(report.reason) if state.phase is Phase.FAILED else ""
        again = f"To try again, add the label `{report.labels.trigger(state.runner)}` again."
        lines += [f"{hint} {again}".strip(), ""]
    if report.evidence is not None:
        lines += _evidence(report.evidence)
    last = report.last
    if last is not None and last.denied:
        lines += [_denied(last.denied), ""]
    if report.labels.support and any("dministrator" in line for line in lines):
        lines += [_support(report.labels.support), ""]
    if report.tail:
        lines += _details("Last lines of the log", _cut(report.tail, _TAIL_LIMIT))
    if last is not None and (transcript := last.transcript_url or last.transcript):
        lines += [_transcript(transcript, report.task), ""]
    lines += _models(report.usage)
    lines.append(f"<sub>{' · '.join(_facts(report))}</sub>")
    lines += ["", _hidden(state)]
    return "\n".join(lines)


def comment_with_rounds(body: str, rounds: RoundRecord, sentence: str) -> str:
    """Return our comment on a change with another record of its rounds.

    Args:
        body: the whole comment; empty if there is none. If it shows no task, the text is new.
        sentence: what was done, for people; the text of a comment that shows no task.
    """
    state = read_state(body)
    if state is None or not state.uuid:
        state = State(uuid="", run=0, attempt=0, phase=Phase.SUCCEEDED, rounds=rounds)
        return f"**Coding agent: checks**\n\n{inline(sentence)}\n\n{_hidden(state)}"
    hidden = _hidden(state.model_copy(update={"rounds": rounds}))
    found = hidden_line(body)
    return body if found is None else body[: found.start] + hidden + body[found.stop :]


def comment_with_change_rounds(body: str, item: Item, change_url: str, rounds: str) -> str:
    """Return our comment on an issue with a line about the rounds of its change.

    Returns:
        The unchanged text if the comment does not show that a task opened this change and succeeded, or if
        the task was withdrawn.

    Args:
        item: the issue.
        rounds: the summary of the rounds (`summary_of`).
    """
    state = read_state(body)
    shown = state.change_url if state is not None and state.phase is Phase.SUCCEEDED else None
    if shown is None or not is_same_change(shown, change_url):
        return body
    anchor = f"{_change_line(item, shown)}\n\n"
    head, found, rest = without_change_rounds(body).partition(anchor)
    return f"{head}{found}{_rounds_line(item, rounds)}\n\n{rest}" if found else body


def is_same_change(one: str, other: str) -> bool:
    """Whether two URLs name the same change of an issue, although the repository may have been renamed."""
    # A change is in the repository of its issue, so the number identifies it.
    return one.rsplit("/", 2)[1:] == other.rsplit("/", 2)[1:]


def without_change_rounds(body: str) -> str:
    """Return our comment on an issue without the line about the rounds of its change."""
    return _ROUNDS.sub("", body, count=1)


def _change_line(item: Item, url: str) -> str:
    return f"{FACTS[item.platform].change_noun.capitalize()}: {url}"


def _rounds_line(item: Item, rounds: str) -> str:
    return f"Since the {FACTS[item.platform].change_noun} was opened: {rounds}. {_ROUNDS_MARK}"


def comment_with_notes(body: str, notes: Sequence[str]) -> str:
    """Return our comment with new notes on the change's next round in place of the old ones."""
    line = _noted(notes) if notes else ""
    if _NOTES.search(body):
        return _NOTES.sub(lambda _: f"{line}\n\n" if line else "", body, count=1)
    headline, _, rest = body.partition("\n\n")
    return f"{headline}\n\n{line}\n\n{rest}" if line else body


def has_notes(body: str, notes: Sequence[str]) -> bool:
    """Whether our comment shows exactly these notes. The text may lack the end of a long comment."""
    found = _NOTES.search(body)
    return (found[0].strip() if found else "") == (_noted(notes) if notes else "")


def _noted(notes: Sequence[str]) -> str:
    return f"{inline(' '.join(notes))} {_NOTES_MARK}"


def _hidden(state: State) -> str:
    # JSON can escape these characters, so that no value ends the HTML comment.
    hidden = state.model_dump_json(exclude_none=True).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{MARKER}{hidden} -->"


def _evidence(evidence: Evidence) -> list[str]:
    """Return the section about the evidence: the verdict, a table, and the ends of the outputs."""
    lines = [f"Verification of `{evidence.commit[:12]}`: {inline(evidence.description)}", ""]
    head = evidence.head
    if head is None or not head.commands:
        return lines
    base = evidence.base
    of_base = f"base `{base.commit[:12]}`" if base is not None and base.commit else "base"
    rows = [("command", "this commit", of_base), ("---", "---", "---")]
    for number, command in enumerate(head.commands):
        there = _same_command(base, number, command)
        name = inline(command.run).replace("`", "")
        rows.append((f"`{name}`", command.end, there.end if there is not None else "not known"))
    lines += _table(rows)
    ends = [(command, "this commit") for command in head.commands if command.tail]
    if base is not None:
        ends += [(command, "the base") for command in base.failed if command.tail]
    for command, where in ends:
        title = f"<code>{html.escape(inline(command.run))}</code> on {where}: {command.end}"
        lines += _details(title, _cut(command.tail, _TAIL_LIMIT))
    return [*lines, _WORTH, ""]


def _same_command(side: SideEvidence | None, number: int, command: VerifiedCommand) -> VerifiedCommand | None:
    found = side.commands[number] if side is not None and number < len(side.commands) else None
    return found if found is not None and found.run == command.run else None


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [*(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows), ""]


def retry_cause(attempt: str, reason: str, message: str) -> str:
    """Return a sentence that says why there is another attempt, for the comment while that attempt runs.

    Args:
        attempt: the name of the attempt that ended, e.g. `Attempt 2`.
    """
    return f"{attempt} ended with the reason {reason}: {message}"[:_CAUSE_LIMIT]


def _denied(denied: Sequence[Denial]) -> str:
    """Return a sentence that names the denied hosts, which often explain a failure."""
    hosts = ", ".join(
        f"`{entry.host}` ({entry.count} {'time' if entry.count == 1 else 'times'})" for entry in denied
    )
    return f"Blocked by the egress proxy: {hosts}. An administrator can allow a host in `egress.allow`."


def read_state(body: str) -> State | None:
    """Read the hidden state of our comment. Return `None` if it has none, or if the state cannot be read."""
    line = hidden_line(body)
    if line is None:
        return None
    try:
        # A line of another release, or a damaged one, counts as absent: a comment must not stop the
        # reporter.
        return State.model_validate_json(body[line].removeprefix(MARKER).removesuffix(" -->"))
    except ValidationError:
        return None


def _headline(report: Report) -> str:
    match report.state.phase:
        case Phase.QUEUED:
            return "waiting" + (f", number {report.position} in the queue" if report.position else "")
        case Phase.STARTING | Phase.RUNNING:
            return report.activity
        case Phase.BACKOFF:
            at = f" at {_clock(report.next_attempt)}" if report.next_attempt else ""
            return f"will try again{at}"
        case Phase.SUSPENDED:
            return "suspended"
        case Phase.SUCCEEDED:
            return "nothing to change" if report.reason == Reason.NOTHING_TO_CHANGE else "done"
        case Phase.FAILED:
            return "failed"
        case Phase.CANCELLED:
            return "cancelled"


def _facts(report: Report) -> list[str]:
    state = report.state
    facts = [f"{state.phase} {'at' if state.phase.terminal else 'since'} {_clock(report.since)}"]
    if state.phase is not Phase.QUEUED and report.began:
        facts.append(f"attempt {state.attempt} of {report.max_attempts}")
    if report.reason is not None:
        facts.append(f"reason {inline(report.reason)}")
    if report.round:
        facts.append(report.round)
    if state.runner is not None:
        facts.append(f"runner {state.runner}")
    used = report.usage
    if used.requests:
        facts.append(
            f"{used.requests:,} model request{'' if used.requests == 1 else 's'}, "
            f"{used.input_tokens:,} tokens in, {used.output_tokens:,} out"
        )
    if used.cost:
        facts.append(f"cost {used.cost}")
    facts.append(f"task `{report.task}`")
    return facts


def _models(used: Usage) -> list[str]:
    """Return a table with the usage of each model; empty if there was only one."""
    if not used.models:
        return []
    rows = [
        (
            f"`{inline(one.model).replace('`', '')}`",
            f"{one.requests:,}",
            f"{one.input_tokens:,}",
            f"{one.output_tokens:,}",
            str(one.cost or "unknown"),
        )
        for one in used.models
    ]
    head = ("model", "requests", "tokens in", "tokens out", "cost")
    table = _table([head, ("---", *["---:"] * (len(head) - 1)), *rows])
    return ["<details><summary>Usage by model</summary>", "", *table, "</details>", ""]


def _clock(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "?"


def _details(title: str, text: str) -> list[str]:
    """Return a collapsed block of plain text."""
    return [f"<details><summary>{title}</summary>", "", quoted_code(text), "", "</details>", ""]


def _support(text: str) -> str:
    is_address = re.fullmatch(r"https?://[^\s<>()\[\]]+", text)
    return f"Help: <{text}>" if is_address else f"Help: {inline(text)}"


def _transcript(place: str, task: str) -> str:
    """Return a link to the transcript if it has a web address."""
    # The path on a server or the name of a bucket helps nobody on the forge, and the item may be public.
    if re.fullmatch(r"https?://[^\s<>()\[\]]+", place):
        return f"[Transcript]({place})"
    return f"The transcript is kept: `kubectl agenttask describe {task}` shows where."


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "\n\n… (cut)"


_ROUND_CAUSES = {
    RoundKind.CHECKS: ("failed checks", "failed checks"),
    RoundKind.REVIEW: ("a review", "reviews"),
    RoundKind.CONFLICT: ("a conflict", "conflicts"),
}
"""What one round and several rounds of a kind are for, in the order in which people read it."""


def summary_of(record: RoundRecord) -> str:
    """Return a phrase with the number of a change's rounds, their kinds, and the cost of the model.

    Superseded rounds do not count in the number, but in the cost. The phrase is empty if no round has ended.
    """
    kinds = Counter(entry.kind for entry in record.rounds if entry.counted)
    if not kinds:
        return ""
    causes = [(count, _ROUND_CAUSES[kind][count > 1]) for kind in _ROUND_CAUSES if (count := kinds[kind])]
    total = kinds.total()
    rounds = f"{total} round{'' if total == 1 else 's'}"
    if len(causes) == 1:
        rounds += f" for {causes[0][1]}"
    else:
        rounds += "".join(f", {count} for {cause}" for count, cause in causes)
    cost = reduce(sum_of, (entry.cost for entry in record.rounds), None)
    return f"{rounds}; cost {cost}" if cost is not None else rounds
