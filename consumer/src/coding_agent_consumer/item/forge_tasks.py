"""A task on its item: whether it may start, which branch gets its work, and what the item shows.

The decisions are pure functions. The consumer holds the item's lock from `decide_start` until the attempt
ends, so nobody else works on the item. A `ForgeTask` may show the same state twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from coding_agent_core.forge.values import MARKER, ItemDetails, ItemState, LabelEvent, Permission, answered_by
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import (
    EVERY_LABEL_STAYS,
    Report,
    State,
    last_act,
    publish,
    read_state,
    retry_cause,
    show_labels,
)
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.model import Authorize
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import (
    LABEL_REMOVED,
    Cause,
    Item,
    Origin,
    Phase,
    TaskRequest,
    Trigger,
    WithdrawalCause,
    task_name,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundCause
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.round_report import ENDS, cause_of, recorded, round_phrase
from coding_agent_core.task.usage import Usage
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.item.push_check import PushNotAllowedError, SourceRepositoryGoneError

REQUIRED = {Authorize.WRITE: Permission.WRITE, Authorize.TRIAGE: Permission.TRIAGE}
"""The permission that somebody needs to ask for a task."""


@dataclass(frozen=True)
class Start:
    """Start this attempt.

    Attributes:
        previous: the state of an earlier run or attempt that the comment shows.
        continues: whether this is a further attempt of the same task.
    """

    run: int
    attempt: int
    previous: State | None
    continues: bool

    @property
    def ended(self) -> str:
        """A text for the next attempt that says why the last one ended; empty if this is not known."""
        return (self.previous.retry_cause or "") if self.continues and self.previous is not None else ""


@dataclass(frozen=True)
class Drop:
    """There is nothing to do; acknowledge the message."""

    why: str


@dataclass(frozen=True)
class WithdrawnWork:
    """Why the work is no longer wanted.

    Attributes:
        why: a sentence for people on the item.
        cause: what a person did.
    """

    why: str
    cause: WithdrawalCause


@dataclass(frozen=True)
class Abandon:
    """The task started before and does not continue: report this outcome.

    Attributes:
        cause: what a person did, if that is the reason.
    """

    state: State
    reason: Reason
    message: str
    cause: WithdrawalCause | None = None


@dataclass(frozen=True)
class ReportAgain:
    """The decision to show the end of a task once more, because its consumer may have died before it did."""

    state: State


Decision = Start | Drop | Abandon | ReportAgain


def decide_start(
    task: QueuedTask,
    details: ItemDetails,
    state: State | None,
    labels: Labels,
    max_attempts: int,
    *,
    hands_off_label: str,
) -> Decision:
    """Decide what happens to a message, by the item's labels and the state in our comment.

    Args:
        hands_off_label: a change with this label has no rounds.

    Raises:
        ValueError: the message of a round has no cause.
    """
    manual, trigger = task.request.trigger.origin is Origin.MANUAL, task.request.trigger.round
    # A message that could not be handled in the task's last attempt comes again with a higher number.
    number = min(task.attempt, max_attempts)
    if state is None or state.uuid != task.uuid:
        if not details.open:
            return Drop("the item is closed")
        if trigger is not None:
            left = _has_label(details, hands_off_label)
            why = "people do the rest of the change" if left else _why_no_round(cause_of(trigger), state)
            if why:
                return Drop(why)
        # A task that has started shows a comment before it swaps the labels. If only the processing label is
        # there, somebody deleted the comment, and the task's consumer died: the item's lock is ours.
        asking = labels.triggers if state is not None else labels.active
        if not asking & details.labels and not manual and trigger is None:
            return Drop("the item no longer has the label: it was removed, or another task answered it")
        # If the comment shows that another message waits, that is the same run: only one of them starts it.
        earlier = 0 if state is None else state.run - state.waits_for_first_attempt
        run = max(task.run, earlier + 1)
        return Start(run=run, attempt=number, previous=state, continues=False)

    # The comment shows this task: it waits, or it started before, and its attempt ended or its consumer died.
    if state.phase.terminal:
        return ReportAgain(state)
    when = "before its task started" if state.attempt == 0 else "while its task was waiting to continue"
    # The change of a round has no label until the round's first attempt adds one.
    expects_label = not manual and (trigger is None or state.attempt > 0)
    ends_rounds = hands_off_label if trigger is not None else None
    withdrawn = _withdrawn(details, labels, expects_label=expects_label, ends_rounds=ends_rounds)
    if withdrawn is not None:
        message = f"{withdrawn.why.removesuffix('.')} {when}."
        return Abandon(state, Reason.CANCELLED, message, withdrawn.cause)
    match state.phase:
        case Phase.QUEUED:  # e.g. the consumer was restarted: this does not count as an attempt
            attempt = max(number, state.attempt)
        case Phase.BACKOFF if task.attempt <= state.attempt:
            # The consumer died between the retry and the acknowledgement, so this message came twice.
            return Drop("the next attempt is already in the queue")
        case _:  # the task's consumer died, or the next attempt is due
            attempt = max(number, state.attempt + 1)
    # A process that dies each time must not be tried for ever.
    if attempt > max_attempts:
        return Abandon(
            state,
            Reason.INTERNAL,
            f"Attempt {state.attempt} of {max_attempts} ended without a report, and no other one follows: its"
            " process died, or the forge refused the report. See the consumer's log around that time.",
        )
    return Start(run=state.run, attempt=attempt, previous=state, continues=state.attempt > 0)


def _why_no_round(cause: RoundCause, state: State | None) -> str:
    """Return why a round does not start, from the comment alone; empty if it may.

    Messages of a round can come twice, and late: a broker does not know that two are for the same cause. A
    round that is dropped here is no loss, because the next scan decides again.
    """
    if state is None:
        return ""
    if state.rounds is not None and state.rounds.has(cause):
        return "this cause has had its round"
    if state.attempt > 0 and not state.phase.terminal:
        return "another task of the change has not ended"
    return ""


def _withdrawn(
    details: ItemDetails, labels: Labels, *, expects_label: bool, ends_rounds: str | None
) -> WithdrawnWork | None:
    """Return why nobody wants the work, as the item shows it; `None` if it is wanted.

    Args:
        ends_rounds: the hands-off label if the work is a round.
    """
    if not details.open:
        return WithdrawnWork("The item was closed.", WithdrawalCause.CLOSED)
    if ends_rounds is not None and _has_label(details, ends_rounds):
        return WithdrawnWork(f"The label `{ends_rounds}` was applied.", WithdrawalCause.HANDS_OFF)
    if expects_label and not labels.active & details.labels:
        return WithdrawnWork(LABEL_REMOVED, WithdrawalCause.UNLABELED)
    return None


def _has_label(details: ItemDetails, label: str) -> bool:
    """Whether the item has a label, in whatever letter case: nobody should miss a stop."""
    return label.casefold() in {one.casefold() for one in details.labels}


@dataclass(frozen=True)
class Approval:
    """Who asked for a task, and when.

    Attributes:
        user: the person's login; empty if it is not known.
        at: the time in whole seconds of the forge's clock; `None` if it is not known, and for a task that a
            person wrote as an AgentTask.
        by: what the person used: `label` or `command`.
    """

    user: str
    at: datetime | None
    by: str = "label"


async def approval_of(forge: Forge, item: Item, request: TaskRequest) -> Approval:
    """Return who asks for the task, and when they approved the item as it was then.

    If a label asks for the task, the item's history says who applied it: somebody who can create tasks with
    the receiver's token could write any name into them. If the history says nothing, only messages of the old
    polling agent are believed, because it may have swapped the label long ago.

    Args:
        item: the item with its repository.

    Raises:
        ForgeError: the history cannot be read.
    """
    if request.trigger.cause is Cause.COMMAND:
        return Approval(request.user, request.trigger.labeled_at, "command")
    if request.trigger.cause is None:
        return Approval(request.user, None)
    applied = await forge.label_application(item)
    if applied is not None and applied.user:
        return Approval(applied.user, applied.at)
    return Approval(request.user if request.trigger.origin is Origin.MANUAL else "", None)


async def person_refusal(
    forge: Forge,
    item: Item,
    trigger: Trigger,
    user: str,
    authorize: Authorize,
    *,
    own_label_counts: bool,
) -> str | None:
    """Return a sentence that says why a person may not ask for the task; `None` if they may.

    The attempt checks this when it starts, because it runs in every mode and has a forge token; receiver and
    operator have none (docs/decisions/0021).

    Args:
        item: the item with its repository.
        user: the person, as `approval_of` returns them.
        own_label_counts: the setting of this name: our own account applies the label for commands.

    Raises:
        ForgeError: the person's permission cannot be read.
    """
    if trigger.cause is None:  # a person who can create AgentTasks has rights in the cluster
        return None
    # The bot's own label would let whoever can make it write a label start work.
    if user and user.casefold() == (await forge.whoami()).casefold():
        if own_label_counts:
            return None
        return "The agent's own account applied the label. Only people start tasks."
    if authorize is Authorize.ANYONE or (user and await forge.permission(item, user) >= REQUIRED[authorize]):
        return None
    who = f"{user} applied the label" if user else "It is not known who applied the label"
    return f"{who}, but only people with {authorize} access to {item.repository} may ask for a task."


_EARLIER_RUNS = 5
"""How many earlier runs' branches are looked up, one request each, before a new branch starts."""


def work_branch(
    prefix: str, item: Item, *, run: int, previous: State | None, continues: bool, previous_change_open: bool
) -> str:
    """Return the branch for the work of an issue.

    Each issue has one change: attempts share a branch, and a further run continues where the last one
    stopped. A new branch starts only if the change of the last run was merged or closed, or if the prefix was
    changed, because nothing is pushed to a branch without it.

    Args:
        previous: the state of an earlier run or attempt in our comment.
        continues: whether this is a further attempt of the same run.
    """
    first = _branch_of_run(prefix, item, 1)
    if previous is None or previous.branch is None:
        return first
    if item.kind is ItemKind.ISSUE and not previous.branch.startswith(prefix):
        return first
    if not continues and previous.change_url is not None and not previous_change_open:
        return _branch_of_run(prefix, item, run)
    return previous.branch


def _branch_of_run(prefix: str, item: Item, run: int) -> str:
    """Return the name of the branch that begins with a run."""
    first = f"{prefix}{'issue' if item.kind is ItemKind.ISSUE else 'change'}-{item.number}"
    return first if run == 1 else f"{first}-r{run}"


async def branch_for(
    forge: Forge, item: Item, prefix: str, *, run: int, previous: State | None, continues: bool
) -> str:
    """Return a run's branch: the one that `work_branch` chooses, or that of a later run's open change.

    The comment can be older than the last run's end, or missing: on Kubernetes the reporter writes it, and
    may be away, and a person can delete it. It also does not show the change of a run that opened one and was
    cancelled before its end was recorded. So a run whose change is not known to be open asks the forge for
    open changes of the last runs.

    Raises:
        ForgeError: the forge does not say whether an earlier run's change is still open.
    """
    last_branch = previous.branch if previous is not None and previous.change_url is not None else None
    still_open = last_branch is not None and await forge.find_change(item, branch=last_branch) is not None
    if not continues and not still_open:
        # The newest first: an older branch was usually merged or closed.
        for earlier in range(run - 1, max(0, run - 1 - _EARLIER_RUNS), -1):
            of_earlier = _branch_of_run(prefix, item, earlier)
            if of_earlier != last_branch and await forge.find_change(item, branch=of_earlier) is not None:
                return of_earlier
    return work_branch(
        prefix, item, run=run, previous=previous, continues=continues, previous_change_open=still_open
    )


def state_of(task: QueuedTask, start: Start, branch: str | None, *, begins: bool) -> State:
    """Return the comment's state for a task that may start; it keeps the results of earlier tasks.

    Args:
        begins: whether the attempt begins now; otherwise the task waits.
    """
    before = start.previous
    return State(
        uuid=task.uuid,
        run=start.run,
        attempt=start.attempt if begins else 0,
        phase=Phase.RUNNING if begins else Phase.QUEUED,
        branch=branch,
        change_url=before.change_url if before is not None and before.branch == branch else None,
        runner=task.request.runner,
        user=task.request.user or None,
        retry_cause=before.retry_cause if before is not None and start.continues else None,
        rounds=before.rounds if before is not None else None,
        round=task.request.trigger.round,
        usage=before.usage if before is not None and start.continues else None,
    )


async def remembered(forge: Forge, item: Item) -> State | None:
    """Return the state that our comment on the item holds; `None` if there is no such comment."""
    found = await forge.find_comment(item, MARKER)
    return read_state(found.body) if found else None


@dataclass(frozen=True)
class PushTarget:
    """The branch from which a task's work starts, and the branch to which it is pushed.

    Attributes:
        repository: full path of the repository that is cloned and pushed to.
        base: the branch from which the work starts.
        branch: the branch that is pushed to.
    """

    repository: str
    base: str
    branch: str


async def show_end_again(forge: Forge, item: Item, labels: Labels) -> None:
    """Show the labels for the end that our comment shows. This can be repeated."""
    found = await forge.find_comment(item, MARKER)
    state = read_state(found.body) if found else None
    if found is not None and state is not None and state.phase.terminal:
        # A label that was applied after that asks for the next run, however long ago that was.
        until = state.answered_until or found.updated_at
        await show_labels(forge, item, labels, state.phase, answered_until=until)


@dataclass
class ForgeTask:
    """An item's task while an attempt works on it.

    Attributes:
        state: the state in our comment; each report changes it.
        since: when the state's phase started; an aware time.
        answered_until: a label that was applied after this time, by the forge's clock, asks for the next
            task; `None` until the time is known.
        withdrawn: what a person did to end the task, if that ended it.
    """

    forge: Forge
    item: Item
    labels: Labels
    state: State
    max_attempts: int
    since: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)
    answered_until: datetime | None = field(default=None, init=False)
    withdrawn: WithdrawalCause | None = field(default=None, init=False)
    _used_before: Usage = field(default_factory=Usage, init=False)
    """What earlier attempts of the round used."""

    def __post_init__(self) -> None:
        self._used_before = self.state.usage or Usage()
        if self.state.round is not None:
            # A round does not do what a label asks for, so each label stays.
            self.answered_until = EVERY_LABEL_STAYS

    @property
    def name(self) -> str:
        round_part = self.state.round.name_part if self.state.round is not None else ""
        return task_name(self.item, self.state.run, round_part=round_part)

    async def prepare(self) -> None:
        """Show that the attempt starts.

        A round adds its label before the comment shows the attempt. Otherwise a change without a label could
        mean that the consumer died in between, or that a person has removed the label.
        """
        if self.state.round is not None:
            await self.forge.add_label(self.item, self.labels.processing_label)
        await self.comment(Phase.RUNNING)

    async def last_act(self) -> LabelEvent | None:
        """Return the last thing that a person did with the item's labels before `prepare` changed them.

        `prepare` removes the label that it finds, and adds the processing label. So the item itself no longer
        shows whether a person removed the label, or removed and applied it again, since the item was read.
        """
        seen = await self.forge.read_state(self.item)
        history = await self.forge.label_history(self.item, None)
        shown = self.labels.active & seen.labels
        return last_act(shown, self.labels, history.values, await self.forge.whoami())

    async def check(self, hands_off_label: str) -> WithdrawnWork | None:
        """Return why the work is no longer wanted; `None` while it is wanted.

        The item of a task that a person created has no label until `prepare` adds the processing label.

        Args:
            hands_off_label: ends a round on a change that has this label.
        """
        details = await self.forge.read(self.item)
        ends_rounds = hands_off_label if self.state.round is not None else None
        withdrawn = _withdrawn(details, self.labels, expects_label=True, ends_rounds=ends_rounds)
        if withdrawn is not None:
            self.answered_until = self.seen(details)
        return withdrawn

    def seen(self, item: ItemDetails | ItemState) -> datetime | None:
        """Return the `answered_until` of a task whose work was over when the item looked like this."""
        if self.state.round is not None:
            return EVERY_LABEL_STAYS
        return answered_by(item.updated_at, labeled=bool(self.labels.triggers & item.labels))

    async def comment(
        self, phase: Phase, *, outcome: Outcome | None = None, next_attempt: datetime | None = None
    ) -> None:
        """Show a phase: update our comment, then swap the labels.

        Raises:
            ForgeError: the comment or the labels could not be changed.
        """
        if phase is not self.state.phase:
            self.since = datetime.now(UTC)
        update: dict[str, object] = {"phase": phase, "reason": outcome.reason if outcome else None}
        if outcome is not None:
            update |= {
                "branch": outcome.branch or self.state.branch,
                "change_url": outcome.change_url or self.state.change_url,
            }
            if phase is Phase.BACKOFF:
                update["retry_cause"] = retry_cause(
                    f"Attempt {self.state.attempt}", outcome.reason, outcome.message
                )
        reported, used = outcome.round if outcome else None, self.state.usage
        if outcome is not None and self.state.round is not None:
            used = self._used_before.plus(outcome.usage).model_copy(update={"models": None})
            update["usage"] = used
        if phase.terminal:
            update["answered_until"] = self.answered_until
        if phase.terminal and self.state.round is not None:
            record = self.state.rounds or RoundRecord()
            superseded = self.withdrawn is not None and self.withdrawn.supersedes
            update["rounds"] = recorded(
                record,
                self.state.round,
                reported,
                ENDS[phase],
                superseded=superseded,
                usage=used,
            )
        self.state = self.state.model_copy(update=update)
        report = Report(
            task=self.name,
            item=self.item,
            labels=self.labels,
            state=self.state,
            max_attempts=self.max_attempts,
            since=self.since,
            next_attempt=next_attempt,
            reason=outcome.reason if outcome else None,
            message=outcome.message if outcome else self.state.retry_cause or "",
            summary=outcome.summary if outcome else "",
            usage=outcome.usage if outcome else Usage(),
            tail=outcome.tail if outcome and not outcome.succeeded else "",
            last=outcome,
            pushed=outcome is not None and outcome.branch is not None,
            began=self.state.attempt > 0,
            round=round_phrase(self.state.round, reported) if self.state.round is not None else "",
        )
        await publish(self.forge, report, answered_until=self.answered_until)

    async def finish(self, outcome: Outcome) -> None:
        """Show the end of the task. A label that is applied from now on stays."""
        if self.answered_until is None:
            self.answered_until = self.seen(await self.forge.read_state(self.item))
        ended = Phase.CANCELLED if outcome.reason is Reason.CANCELLED else Phase.FAILED
        await self.comment(Phase.SUCCEEDED if outcome.succeeded else ended, outcome=outcome)


def push_target(item: Item, details: ItemDetails, branch: str) -> PushTarget:
    """Return where the work starts and where it is pushed to.

    The work for an issue becomes a new change. The work for a change goes to the change's own branch, in the
    repository that holds it.

    Args:
        branch: the branch for the work on an issue.

    Raises:
        SourceRepositoryGoneError: the repository of a change's branch cannot be found.
        PushNotAllowedError: the change has no branch.
    """
    if item.kind is ItemKind.ISSUE:
        return PushTarget(item.repository, details.base_branch, branch)
    if details.head_repository is None:
        raise SourceRepositoryGoneError(item)
    if details.head_branch is None:
        raise PushNotAllowedError(
            f"{item.display} was pushed without a branch (AGit), so there is no branch to push to. "
            "Open a pull request from a branch."
        )
    return PushTarget(details.head_repository, details.head_branch, details.head_branch)
