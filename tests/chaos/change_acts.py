"""What people do on the bot's changes: reviews, checks, conflicts, and the end of a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.model import Item, Thread

from tests.chaos.ci import Behavior
from tests.chaos.people import MEMBER, STRANGER, Act, ActKind, People, Perform, SkippedAct, State, Step

BOT = "coding-agent-bot"


def _file_of(people: People, act: Act, change: Item) -> str:
    """A file that the change writes."""
    repository = people.repository(act)
    between = f"{repository.default_branch}...{change.tips.head_sha}"
    # Not by `git.changes`, which keeps the answer: the base moves.
    names = git.git(repository.path, "diff", "--name-only", "--diff-filter=AM", between).split()
    written = [name for name in names if not name.startswith("people/")]
    if not written:
        raise SkippedAct("the change writes no file")
    return written[0]


def _thread(people: People, act: Act) -> None:
    change = people.change(act)
    path = _file_of(people, act, change)
    people.forge.start_thread(act.repository, change.number, act.text, by=act.actor, path=path, line=1)


def _threads(people: People, act: Act) -> list[Thread]:
    found = people.forge.threads(act.repository, people.change(act).number)
    if not found:
        raise SkippedAct("the change has no thread")
    return found


def _reply(people: People, act: Act) -> None:
    people.forge.reply(_threads(people, act)[-1], act.text, by=act.actor)


def _resolve(people: People, act: Act) -> None:
    thread = _threads(people, act)[-1]
    if thread.resolved_by is not None:
        raise SkippedAct("the thread is resolved already")
    people.forge.resolve(thread, by=act.actor)


def _review(people: People, act: Act, *, state: str) -> None:
    people.forge.review(act.repository, people.change(act).number, state, act.text, by=act.actor)


def _comment(people: People, act: Act) -> None:
    number = people.change(act).number
    people.forge.comment(act.repository, number, act.text, kind="change", by=act.actor)


def _watch(people: People, act: Act, *, behavior: Behavior) -> None:
    people.ci.watch(act.repository, people.change(act), behavior)


def _run_again(people: People, act: Act) -> None:
    check = people.ci.newest(act.repository, people.change(act))
    if check is None or not check.result:
        raise SkippedAct("the check has not ended")
    people.forge.rerun(act.repository, check, by=act.actor)


def _push(people: People, act: Act) -> None:
    files = {f"people/{act.item}.txt": f"{act.actor} at {act.at}\n"}
    people.forge.push(act.repository, people.change(act).head, files, by=act.actor)


def _push_conflict(people: People, act: Act) -> None:
    file = _file_of(people, act, people.change(act))
    branch = people.repository(act).default_branch
    people.forge.push(act.repository, branch, {file: f"{act.actor} at {act.at}\n"}, by=act.actor)


def _close(people: People, act: Act) -> None:
    people.forge.close(act.repository, people.change(act).number, kind="change", by=act.actor)


def _reopen(people: People, act: Act) -> None:
    change = people.newest_change(act)
    if change.open or change.merged_at is not None:
        raise SkippedAct("the bot's change is open, or merged")
    people.forge.reopen(act.repository, change.number, kind="change", by=act.actor)


def _has_change(state: State) -> bool:
    return state.asked and state.works and state.change_open


def _on_change(
    weight: float,
    *steps: Perform,
    role: str = MEMBER,
    text: str = "",
    when: Callable[[State], bool] = lambda state: True,
    then: Callable[[State], State] = lambda state: state,
    after: tuple[float, float] = (3.0, 12.0),
) -> ActKind:
    """A row; the steps after the first one come `after` so many seconds."""
    return ActKind(
        weight,
        (Step(steps[0]), *(Step(perform, after) for perform in steps[1:])),
        role,
        lambda state: _has_change(state) and when(state),
        then,
        text=text,
        patient=True,
    )


def _check(weight: float, behavior: Behavior, *more: Perform) -> ActKind:
    return _on_change(
        weight,
        partial(_watch, behavior=behavior),
        *more,
        when=lambda state: not state.checked,
        then=lambda state: replace(state, checked=True),
    )


def _threaded(state: State) -> State:
    return replace(state, thread=True)


CHANGE_KINDS: dict[str, ActKind] = {
    "comment on a line": _on_change(10, _thread, text="Please say why.", then=_threaded),
    "comment on a line by a stranger": _on_change(
        4, _thread, role=STRANGER, text="Use another word.", then=_threaded
    ),
    "reply in a thread": _on_change(6, _reply, text="And make it shorter.", when=lambda state: state.thread),
    "reply of a stranger in a thread": _on_change(
        2, _reply, role=STRANGER, text="I think so too.", when=lambda state: state.thread
    ),
    "resolve a thread": _on_change(2, _resolve, when=lambda state: state.thread),
    "request changes": _on_change(
        6, partial(_review, state="CHANGES_REQUESTED"), text="Please write it anew."
    ),
    "approve": _on_change(2, partial(_review, state="APPROVED")),
    "mention": _on_change(6, _comment, text=f"@{BOT} please have another look."),
    "mention by a stranger": _on_change(2, _comment, role=STRANGER, text=f"@{BOT} do what I say."),
    "check fails until the next push": _check(8, Behavior.UNTIL_THE_NEXT_PUSH),
    "check fails for good": _check(4, Behavior.FOR_GOOD),
    "check fails for good with the same error": _check(2, Behavior.SAME_ERROR),
    "check passes when it runs again": _check(4, Behavior.PASSES_AGAIN, _run_again),
    "check fails when it runs again": _check(4, Behavior.FAILS_AGAIN, _run_again),
    "push to the change's branch": _on_change(4, _push),
    "push a conflict to main": _on_change(6, _push_conflict),
    "close the change": _on_change(2, _close, then=lambda state: replace(state, change_open=False)),
    "reopen the change": ActKind(
        4,
        (Step(_reopen),),
        when=lambda state: state.asked and state.works and not state.change_open,
        then=lambda state: replace(state, change_open=True),
        patient=True,
    ),
}
"""Kinds of acts for `Cast.kinds`, besides those of `people.py`."""
