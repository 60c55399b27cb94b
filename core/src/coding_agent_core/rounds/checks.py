"""Diagnoses the checks of a head: which of them an agent can fix, and what else can be done. Pure.

Checks are judged by their commit alone. Who reported a check or pushed the commit does not matter, because
the checks of our own pushes are what rounds are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from coding_agent_core.forge.changes import (
    ChangeSnapshot,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
)
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import (
    OWN_STATUS,
    Rerun,
    RoundKind,
    RoundPolicy,
    Stop,
    StopReason,
    Waiting,
    digest,
    named,
)
from coding_agent_core.task.round_record import RERUNS_LIMIT, RerunEntry, RoundRecord
from coding_agent_core.task.verification import NOT_CHECKED, RED_ON_BASE, VERIFY_STATUS

_FIXABLE = frozenset({CheckConclusion.FAILURE, CheckConclusion.TIMED_OUT})
_RED = _FIXABLE | {CheckConclusion.INFRASTRUCTURE}
_FOR_PEOPLE = frozenset({CheckConclusion.CANCELLED, CheckConclusion.ACTION_REQUIRED, CheckConclusion.STALE})
_INFRASTRUCTURE_RERUNS = 1
_FLAKY_RERUNS = 2
_UNANSWERED_WAIT = timedelta(minutes=5)
"""How long to wait for a new run if the forge's answer was lost. It appears soon, or never."""

_CHANGING = re.compile(
    "|".join(
        (
            r"\x1b\[[0-9;]*[A-Za-z]",  # colors
            r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?",
            r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b",
            r"\b\d+(?:\.\d+)?\s?(?:ms|µs|us|ns|s|secs?|seconds?|m|mins?|minutes?)\b",
            r"\b0x[0-9a-fA-F]+\b",
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}\b",  # commits and digests
            r"(?:/private)?/(?:tmp|var/folders)/\S+",
            r"(?:\.\w{1,5}|\blocalhost):\d+(?::\d+)?\b",  # lines and ports: app.py:12:3, 127.0.0.1:8080
            r"\bline \d+",
            r"\b(?:pid|port|run|seed)[ =:#]+\d+",
        )
    ),
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Diagnosis:
    """The checks of a head, sorted by what can be done about them.

    Attributes:
        fixable: the failed checks that an agent can fix, by name.
        waiting: why the checks are not settled yet; `None` if they are, or if there are none.
    """

    fixable: tuple[CheckResult, ...] = ()
    waiting: Waiting | None = None
    reruns: tuple[Rerun, ...] = ()
    stops: tuple[Stop, ...] = ()
    notes: tuple[str, ...] = ()


def diagnose(snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, now: datetime) -> Diagnosis:
    """Diagnose the checks of the head.

    Args:
        now: the time by the forge's clock.
    """
    if snapshot.checks_problem:
        return Diagnosis(notes=(f"The checks cannot be read: {snapshot.checks_problem}.",))
    # Our own status says that a round waits or works, and would wait for itself.
    checks = [check for check in snapshot.checks if not _is_status(check, OWN_STATUS)]
    running = [check for check in checks if check.state is not CheckState.COMPLETED]
    hanging = [check for check in running if _hangs_at(check, snapshot, policy) <= now]
    notes = _notes(checks, hanging)
    diagnosed = _failures(snapshot, record, policy, checks, now)
    waiting = _settling(snapshot, policy, [one for one in running if one not in hanging], checks, now)
    return Diagnosis(
        fixable=diagnosed.fixable,
        waiting=waiting or diagnosed.waiting,
        # Jobs of a workflow can be run again only after all of them have ended.
        reruns=() if waiting else diagnosed.reruns,
        stops=diagnosed.stops,
        notes=(*notes, *diagnosed.notes),
    )


def check_key(check: CheckResult) -> str:
    """Return the check's key in the record."""
    return digest(f"{check.name}\n{check.event}")


def refusal(change: Item, names: str, where: str = "") -> str:
    """Return a sentence for people: the forge refused to run checks again, and what they can change."""
    facts = FACTS[change.platform]
    head = " ".join(filter(None, (f"{facts.title} refused to run these checks again", where)))
    return f"{head}: {names}. Check that {facts.rerun_right}."


def fingerprints(checks: Iterable[CheckResult]) -> tuple[str, ...]:
    """Return a hash of each failed check and its errors, without what differs in each run.

    Returns:
        Sorted hashes; empty if the errors of a check are not known, because then nothing can be compared.
    """
    known = [(check.name, _CHANGING.sub("", check.errors)) for check in checks]
    if not all(errors.strip() for _, errors in known):
        return ()
    return tuple(sorted({digest(f"{name}\n{' '.join(errors.split())}") for name, errors in known}))


def _hangs_at(check: CheckResult, snapshot: ChangeSnapshot, policy: RoundPolicy) -> datetime:
    began = check.started_at or snapshot.head_at or snapshot.updated_at
    return began + policy.check_hangs_after


def _settling(
    snapshot: ChangeSnapshot,
    policy: RoundPolicy,
    running: list[CheckResult],
    checks: list[CheckResult],
    now: datetime,
) -> Waiting | None:
    """Return why the checks are not settled yet; `None` if they are."""
    if running:
        until = min(_hangs_at(check, snapshot, policy) for check in running)
        return Waiting(RoundKind.CHECKS, until, f"Checks have not ended: {_names(running)}.")
    # New checks can appear a moment after others have ended, so the newest end has to be some time ago.
    ended = [check.completed_at for check in checks if check.completed_at is not None]
    last = max(ended, default=snapshot.head_at or snapshot.updated_at)
    # A clock that was set back must not put the round off.
    until = min(last, now) + policy.checks_quiet
    if until > now and any(check.conclusion in _RED for check in checks):
        return Waiting(RoundKind.CHECKS, until, "Checks have just ended, and others may start.")
    return None


def _failures(
    snapshot: ChangeSnapshot,
    record: RoundRecord,
    policy: RoundPolicy,
    checks: list[CheckResult],
    now: datetime,
) -> Diagnosis:
    """Sort the failed checks by what can be done about each."""
    red_on_base = {check.name for check in snapshot.base_checks if check.conclusion in _RED}
    red_on_base |= {check.name for check in checks if _says(check, RED_ON_BASE)}
    fixable, on_base, asked_again, planned, flaky, infrastructure = (list[CheckResult]() for _ in range(6))
    refused = list[CheckResult]()
    reruns: list[Rerun] = []
    untils: list[datetime] = []
    made = sum(entry.head == snapshot.head_commit for entry in record.reruns)
    for check in checks:
        if check.conclusion not in _RED:
            continue
        if _says(check, NOT_CHECKED):
            infrastructure.append(check)  # the operator has tried several times
            continue
        is_flaky = check.conclusion in _FIXABLE and CheckConclusion.SUCCESS in check.earlier
        if check.conclusion in _FIXABLE and not is_flaky:
            # A check that fails on the base too is not broken by this change, so no round tries to fix it.
            (on_base if check.name in red_on_base else fixable).append(check)
            continue
        # A flaky check may need two tries to pass; a lost runner is usually replaced at once.
        limit = _FLAKY_RERUNS if is_flaky else _INFRASTRUCTURE_RERUNS
        asked = record.reruns_of(snapshot.head_commit, check_key(check))
        asked_for_this_run = [one for one in asked if one.run == check.id and not one.refused]
        appears_by = max((_appears_by(one, policy) for one in asked_for_this_run), default=now)
        if appears_by > now:
            asked_again.append(check)  # the snapshot does not show the new run yet
            untils.append(appears_by)
        elif (
            check.kind is CheckKind.JOB
            and check.id
            and len(asked) < limit
            and made + len(reruns) < RERUNS_LIMIT
            # The same run is asked for once: a second request would run the job twice.
            and check.id not in {one.run for one in asked}
        ):
            why = "it passed and failed on the same commit" if is_flaky else "the failure is not the change's"
            reruns.append(Rerun(check.id, check_key(check), check.name, snapshot.head_commit, why))
            planned.append(check)
            untils.append(now + policy.check_hangs_after)
        else:
            (flaky if is_flaky else infrastructure).append(check)
            if any(one.refused for one in asked):
                refused.append(check)
    waiting = None
    if untils:
        waiting = Waiting(RoundKind.CHECKS, min(untils), _again(asked_again, planned))
    return Diagnosis(
        fixable=tuple(sorted(fixable, key=lambda one: (one.name, one.event))),
        waiting=waiting,
        reruns=tuple(reruns),
        stops=tuple(_stops(on_base, flaky, infrastructure)),
        notes=(refusal(snapshot.item, _names(refused)),) if refused else (),
    )


def _says(check: CheckResult, beginning: str) -> bool:
    """Whether a check is the status of our evidence, with a description that begins like this."""
    return _is_status(check, VERIFY_STATUS) and check.errors.startswith(beginning)


def _is_status(check: CheckResult, name: str) -> bool:
    """Whether a check is a commit status of this name. A job of the repository may have the name too."""
    return check.kind is CheckKind.STATUS and check.name == name


def _appears_by(entry: RerunEntry, policy: RoundPolicy) -> datetime:
    return entry.at + (_UNANSWERED_WAIT if entry.unanswered else policy.check_hangs_after)


def _again(asked: list[CheckResult], planned: list[CheckResult]) -> str:
    """Return sentences that name the checks that run again and those that are going to."""
    sentences = [f"The forge was asked to run these checks again: {_names(asked)}."] if asked else []
    sentences += [f"These checks are going to run again: {_names(planned)}."] if planned else []
    return " ".join(sentences)


def _stops(
    on_base: list[CheckResult], flaky: list[CheckResult], infrastructure: list[CheckResult]
) -> Iterable[Stop]:
    if on_base:
        sentence = (
            f"These checks fail on the base branch too, so no round tries to fix them: {_names(on_base)}."
        )
        yield Stop(StopReason.RED_ON_BASE, sentence, RoundKind.CHECKS)
    if flaky:
        sentence = f"These checks passed and failed on the same commit, so they are flaky: {_names(flaky)}."
        yield Stop(StopReason.FLAKY, sentence, RoundKind.CHECKS)
    if infrastructure:
        sentence = f"These checks failed before they could test the change: {_names(infrastructure)}."
        yield Stop(StopReason.INFRASTRUCTURE, sentence, RoundKind.CHECKS)


def _notes(checks: list[CheckResult], hanging: list[CheckResult]) -> list[str]:
    notes = []
    if hanging:
        notes.append(f"These checks hang, and the others no longer wait for them: {_names(hanging)}.")
    for_people = [check for check in checks if check.conclusion in _FOR_PEOPLE]
    for conclusion in sorted({str(check.conclusion) for check in for_people}):
        some = [check for check in for_people if check.conclusion == conclusion]
        notes.append(f"These checks ended without a result ({conclusion}): {_names(some)}.")
    return notes


def _names(checks: Iterable[CheckResult]) -> str:
    return named(f"{check.name} (required)" if check.required else check.name for check in checks)
