"""What people see on a real Gitea, from a label to a merge, while a release on a node serves it.

People act in Gitea's pages, and the CI is a script that sets commit statuses. The story reads the pages and
the API; nothing in it uses the product's code.
"""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any, Self

from coding_agent_core.task.verification import VERIFY_STATUS
from coding_agent_testbed.gitea import Account, Api, GiteaServer, WebSession, make_sample, prepare
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.chart.discount import CODE, DOCSTRING, EXAMPLE, FIX, LINE, QUESTION, Step
from tests.chart.release import Release
from tests.fixtures.system import BOT, DONE, PROCESSING, SECRET
from tests.fixtures.system_in_pods import host_address
from tests.integration.main_job.scripts import finish, run

REPOSITORY = "acme/shop"
"""The sandboxes have the same files in `acme/pricing`, and one model serves all forges."""
_LONG, _ISSUE, _PULL = 1, 2, 3
_SAID = "Failed example: bulk_discount(10)"
_BUG = (
    "A customer bought 10 spoons and paid full price, but the price list says 5 % off from 10 pieces. "
    "`tests/test_discount.py` has a test for this, and it is red."
)
_FLOW = {BOT, PROCESSING, DONE}
_STOP_SECONDS = 30.0
"""Most seconds from removing a label until the attempt has stopped, beside the other stories on one node."""


def scripts() -> list[Script]:
    """What the model does in the story: it works without an end on the first issue."""

    def works(step: Step) -> tuple[Any, ...]:
        return run(step.command), finish(step.summary)

    change = rf"{REPOSITORY}\W{_PULL}"
    return [
        Script(match=f"{change}, review: round 1 of 5", turns=works(DOCSTRING)),
        Script(
            match=f"(?s){change}, checks: round 1 of 3.*Failed example",
            turns=works(EXAMPLE),
        ),
        Script(match=rf"{REPOSITORY}#{_LONG}\b", turns=(run("sleep 3600"), finish())),
        Script(match=rf"{REPOSITORY}#{_ISSUE}\b", turns=works(FIX)),
    ]


@dataclass
class GiteaStory:
    """The story. Only one task of the repository may run at a time.

    Attributes:
        page: of the repository, in which a person is logged in.
        ci: the API of the CI, and for what pages do not show to a program.
        picture: makes a picture, given its name, the address of a page and the height in pixels.
        wait: the most seconds of one step.
        took: seconds from each cause to its effect.
    """

    server: GiteaServer
    bot: Account
    page: WebSession
    ci: Api
    release: Release
    picture: Callable[[str, str, int], None]
    wait: float = 240.0
    took: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, stack: ExitStack, release: Release, folder: Path, picture: Callable[[str, str, int], None]
    ) -> Self:
        """Run Gitea until the stack ends, where the node's pods reach it; built if it is not in the cache."""
        address = host_address(release.cluster)
        server = GiteaServer(folder, program=prepare(), address="0.0.0.0", host=address)
        stack.enter_context(server)
        sample = make_sample(server, REPOSITORY)
        ci = stack.enter_context(server.api())
        ci.add_collaborator(REPOSITORY, sample.bot.login, "admin")
        page = stack.enter_context(WebSession(server.url, REPOSITORY, sample.maintainer))
        return cls(server, sample.bot, page, ci, release, picture)

    def add_hook(self, receiver: str) -> None:
        """Send webhooks to the receiver at this address."""
        self.ci.add_hook(REPOSITORY, f"{receiver}/webhook/gitea", SECRET)

    def play(self) -> None:
        """Tell the whole story; fails at the first step that does not happen."""
        self._wait_and_stop()
        self._merge(self._review(self._open_change()))

    def _wait_and_stop(self) -> None:
        """The second of two issues waits, until a person removes the label from the first."""
        page = self.page
        assert page.open_issue("Compare all prices with the supplier's list", "", BOT) == _LONG
        self._until("label to attempt", lambda: self._containers(_LONG))
        assert page.open_issue("Buying exactly 10 pieces gives no bulk discount", _BUG) == _ISSUE
        page.put_label(_ISSUE, BOT)
        self._until_shown("label to position in the queue", "issues", _ISSUE, r"number \d+ in the queue")
        self._picture("gitea-waiting", "issues", _ISSUE, 700)
        page.take_label(_LONG, PROCESSING)
        self._until("label removed to pod stopped", lambda: not self._containers(_LONG), _STOP_SECONDS)

    def _open_change(self) -> str:
        """The agent opens a pull request for the second issue, whose check fails; its head."""
        first = self._head_after("", "a free place to pull request")
        # While the commands verify the work: a round for either waits until both have ended.
        self._until("pull request to pending evidence", lambda: VERIFY_STATUS in dict(self._results(first)))
        self._check(first, "failure", _SAID)
        done = f"(?s)Coding agent: done.*/pulls/{_PULL}"
        self._until_shown("pull request to comment", "issues", _ISSUE, done)
        self._until_shown("pod stopped to comment", "issues", _LONG, "Coding agent: cancelled")
        self._until("labels", lambda: (self._labels(_LONG), self._labels(_ISSUE)) == (set(), {DONE}))
        return first

    def _review(self, first: str) -> dict[str, str]:
        """A round for the check and one for a review; the results that verified their commits have."""
        second = self._head_after(first, "failed check to commit")
        assert EXAMPLE.text in self._text(second, EXAMPLE.file)
        self._check(second, "success")
        self.page.comment_line(_PULL, CODE, LINE, QUESTION)
        self.page.review(_PULL, "reject")
        third = self._head_after(second, "review to commit")
        assert DOCSTRING.text in self._text(third, DOCSTRING.file)
        self._check(third, "success")
        self._until_shown("commit to answer in the thread", "pulls", _PULL, third[:12])
        self._until_shown("answer to comment", "pulls", _PULL, "(?s)Coding agent: done.*review round 1 of 5")
        return {first: "failure", second: "success", third: "success"}

    def _merge(self, verified: dict[str, str]) -> None:
        """The evidence is there, and a person merges."""
        for head, result in verified.items():
            self._until(f"{result} of {head}", partial(self._has_evidence, head, result))
        self._picture("gitea-issue", "issues", _ISSUE, 1400)
        self._picture("gitea-pull-request", "pulls", _PULL, 2400)
        self.page.review(_PULL, "approve")
        self._until("Gitea has looked for conflicts", lambda: self._get("pulls", _PULL)["mergeable"])
        self.page.merge(_PULL)
        assert self._get("pulls", _PULL)["merged"]
        self._until("merge to closed issue", lambda: self._get("issues", _ISSUE)["state"] == "closed")

    def see_that_it_ended(self) -> None:
        """See that nothing was done twice, and nothing after the merge."""
        assert self._runs() == [
            ("label", "Cancelled"),
            *[(c, "Succeeded") for c in ("label", "checks", "review")],
        ]
        for number in (_LONG, _ISSUE, _PULL):
            found = self._get("issues", number, "comments")
            assert len([one for one in found if "Coding agent: " in one["body"]]) == 1, number
        assert len(self._get("pulls", _PULL, "commits")) == 3

    def _until(self, what: str, happened: Callable[[], Any], seconds: float | None = None) -> Any:
        began = time.monotonic()
        found = until(f"Gitea: {what}", happened, timeout=seconds or self.wait)
        self.took[what] = time.monotonic() - began
        return found

    def _until_shown(self, what: str, noun: str, number: int, text: str) -> None:
        self._until(what, lambda: re.search(text, self._shown(noun, number)))

    def _picture(self, name: str, noun: str, number: int, height: int) -> None:
        self.picture(name, f"{self.server.url}/{REPOSITORY}/{noun}/{number}", height)

    def _head_after(self, before: str, what: str) -> str:
        def head() -> str:
            found = [pull["head"]["sha"] for pull in self._get("pulls")]
            assert len(found) <= 1
            return next((sha for sha in found if sha != before), "")

        return str(self._until(what, head))

    def _check(self, head: str, result: str, said: str = "") -> None:
        """What a repository's CI does after a push."""
        self.ci.set_status(REPOSITORY, head, result, "ci/examples", said)

    def _has_evidence(self, head: str, result: str) -> bool:
        """Whether the commit has this newest result of the commands that verify it."""
        return (VERIFY_STATUS, result) in self._results(head)

    def _results(self, head: str) -> set[tuple[str, str]]:
        """The checks of a commit with their newest results."""
        statuses = self._get("commits", head, "status")["statuses"] or []
        return {(one["context"], one["status"]) for one in statuses}

    def _labels(self, number: int) -> set[str]:
        return {label["name"] for label in self._get("issues", number, "labels")} & _FLOW

    def _shown(self, noun: str, number: int) -> str:
        """The page of an issue or pull request."""
        return unescape(self.page.page(f"/{noun}/{number}"))

    def _text(self, commit: str, file: str) -> str:
        return self.ci.read_file(REPOSITORY, file, commit)

    def _get(self, *path: str | int) -> Any:
        return self.ci.call("GET", "/".join(map(str, ("", "repos", REPOSITORY, *path))))

    def _tasks(self) -> list[dict[str, Any]]:
        """The AgentTasks of the repository, the oldest first."""
        mine = [one for one in self.release.tasks() if one["spec"]["source"]["repository"] == REPOSITORY]
        return sorted(mine, key=lambda task: str(task["metadata"]["creationTimestamp"]))

    def _runs(self) -> list[tuple[str, str]]:
        return [(one["spec"]["trigger"]["cause"], one["status"]["phase"]) for one in self._tasks()]

    def _containers(self, number: int) -> list[str]:
        """The containers that run for an issue."""
        names = [
            one["metadata"]["name"] for one in self._tasks() if one["spec"]["source"]["number"] == number
        ]
        return [
            status["name"]
            for pod in self.release.get("pods", "-l", "batch.kubernetes.io/job-name")["items"]
            if any(pod["metadata"]["name"].startswith(name) for name in names)
            for status in pod["status"].get("containerStatuses", [])
            if "running" in status["state"]
        ]
