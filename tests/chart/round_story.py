"""What happens on a forge from a label to a merge: a check fails, a person reviews, the agent does both.

The command that verifies the work fails too, after the first push. A round repairs what it finds, because
the attempt does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.task.round_record import RoundEnd
from coding_agent_core.task.verification import VERIFY_STATUS
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.forge.model import Item, Kind
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Script, Turn
from coding_agent_testbed.until import until

from tests.chart.discount import CODE, DOCSTRING, EXAMPLE, FIX, LINE, LOG, QUESTION, VERIFY_COMMANDS, Step
from tests.fixtures.system import BOT, DONE

ROUNDS = {"enabled": True, "checks_quiet": 0, "review_quiet": 0}
VERIFY = {"commands": list(VERIFY_COMMANDS), "repairs": 0}
"""Evidence without any repair in the attempt, so that a commit whose command fails is pushed."""
_BRANCH, _US = "coding-agent/issue-1", "coding-agent-bot"
_CAUSES = ("label", "checks", "review")


def scripts(repository: str, works: Callable[[Step], tuple[Turn, ...]]) -> list[Script]:
    """What the model does in the story of a repository.

    Args:
        works: the turns that take a step and end the work with its summary.
    """
    return [
        Script(match=rf"{repository}\W\d+, review: round 1 of 5", turns=works(DOCSTRING)),
        Script(
            # The round has read the log of the check.
            match=rf"(?s){repository}\W\d+, checks: round 1 of 3.*Failed example",
            turns=works(EXAMPLE),
        ),
        Script(match=rf"{repository}#1\b", turns=works(FIX)),
    ]


@dataclass
class RoundStory:
    """The story of one repository.

    Attributes:
        tasks: returns all AgentTasks.
        wait: the most seconds of one step.
    """

    forge: ForgeServer
    repository: str
    tasks: Callable[[], list[dict[str, Any]]]
    wait: float = 240.0

    def play(self) -> None:
        """Tell the whole story; fails at the first step that does not happen."""
        self.forge.add_label(self.repository, 1, BOT)
        first = self._head_after("", "the change")
        # While the commands verify the work: a round for either waits until both have ended.
        self._until("the pending evidence", lambda: VERIFY_STATUS in dict(self._results(first)))
        self._check(first, passes=False)
        self._until("the issue's label", lambda: DONE in self.forge.labels(self.repository, 1))
        [change] = self._changes()
        second = self._head_after(first, "the round for the check")
        assert EXAMPLE.text in self._text(second, EXAMPLE.file)
        self._check(second, passes=True)

        thread = self.forge.start_thread(
            self.repository, change.number, QUESTION, path=CODE, line=LINE, by="alice"
        )
        third = self._head_after(second, "the round for the review")
        assert DOCSTRING.text in self._text(third, DOCSTRING.file)
        self._check(third, passes=True)

        def answered() -> list[str]:
            return self.forge.run(lambda: [one.body for one in thread.comments])

        self._until("the answer in the thread", lambda: len(answered()) == 2)
        assert third[:12] in answered()[1]
        self._until("the end of the last round", lambda: self._ends() == [RoundEnd.PUSHED] * 2)
        self._until("the runs", lambda: self._runs() == [(cause, "Succeeded") for cause in _CAUSES])
        for head, result in ((first, "failure"), (second, "success"), (third, "success")):
            self._until(f"{result} of {head}", partial(self._has_evidence, head, result))

        self.forge.resolve(thread, by="alice")
        self.forge.merge(self.repository, change.number, by="alice")
        log = self._git("log", "--format=%an", f"{first}~..{third}").split("\n")
        assert len(log) == 3, "one commit each"

    def see_that_it_ended(self) -> None:
        """See that nothing has happened after the merge."""
        assert self._runs() == [(cause, "Succeeded") for cause in _CAUSES]
        [change] = self._changes()
        bodies = self.forge.run(lambda: [one.body for one in change.comments if one.author.login == _US])
        [comment] = [body for body in bodies if MARKER in body]
        assert "review round 1 of 5" in comment
        assert self._ends() == [RoundEnd.PUSHED] * 2

    def _until(self, what: str, happened: Callable[[], Any]) -> Any:
        return until(f"{self.repository} on {self.forge.flavour.value}: {what}", happened, timeout=self.wait)

    def _changes(self) -> list[Item]:
        items = self.forge.repository(self.repository).items
        return self.forge.run(lambda: [item for item in items if item.kind is Kind.CHANGE])

    def _head_after(self, before: str, what: str) -> str:
        def head() -> str:
            found = self._changes() and self._git("rev-parse", _BRANCH)
            return found if found and found != before else ""

        return str(self._until(what, head))

    def _check(self, head: str, *, passes: bool) -> None:
        """What a repository's CI does after a push."""
        result, log = ("success", b"") if passes else ("failure", LOG.encode())
        self.forge.add_check(self.repository, head, "examples", result, log=log)

    def _has_evidence(self, head: str, result: str) -> bool:
        """Whether the commit has this newest result of our commands."""
        return (VERIFY_STATUS, result) in self._results(head)

    def _results(self, head: str) -> set[tuple[str, str]]:
        """The checks of a commit with their newest results; empty while a check runs."""
        repository, reviews = self.forge.repository(self.repository), self.forge.sandbox.reviews
        checks = self.forge.run(lambda: reviews.checks(repository, head, latest=True))
        return {(check.name, check.result) for check in checks}

    @property
    def page(self) -> str:
        """The address of the change's page."""
        [change] = self._changes()
        path = self.forge.sandbox.path_of(self.forge.repository(self.repository), change)
        return f"{self.forge.base_url}{path}"

    def _ends(self) -> list[RoundEnd]:
        [change] = self._changes()
        bodies = self.forge.run(lambda: [one.body for one in change.comments if MARKER in one.body])
        state = read_state(bodies[0]) if bodies else None
        return [one.end for one in state.rounds.rounds] if state is not None and state.rounds else []

    def _runs(self) -> list[tuple[str, str]]:
        """Cause and phase of each task of the repository, the oldest first."""
        platform = self.forge.flavour.value
        mine = [
            task
            for task in self.tasks()
            if task["spec"]["source"]["repository"] == self.repository
            and task["spec"]["source"]["platform"] == platform
        ]
        mine.sort(key=lambda task: str(task["metadata"]["creationTimestamp"]))
        return [
            (task["spec"]["trigger"].get("cause", ""), task.get("status", {}).get("phase", ""))
            for task in mine
        ]

    def _text(self, commit: str, file: str) -> str:
        return self._git("show", f"{commit}:{file}", strip=False)

    def _git(self, *arguments: str, strip: bool = True) -> str:
        folder = self.forge.repository(self.repository).path
        try:
            text = run(["git", "--git-dir", str(folder), *arguments])
        except ClusterError:  # the branch is not there yet
            return ""
        return text.strip() if strip else text
