"""What the comment on an issue says of its change after a withdrawal, and while an older run is stopped."""

from dataclasses import replace
from datetime import timedelta

from coding_agent_core.forge.values import Comment
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.task.agenttask import LABEL_REPORTED
from coding_agent_core.task.model import Phase

from tests.unit.operator_reporter.test_label_races import GRACE, US, LabelRace

CHANGE = {"branch": "coding-agent/issue-7", "changeURL": "https://github.com/octo/demo/pull/9"}


class Commented(LabelRace):
    """An issue that is labeled, and its forge keeps the one comment.

    Attributes:
        written: every text of the comment.
        rounds: what a look says of the rounds of the issue's change.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self.forge.offset, self.forge.account_known = timedelta(0), True
        self.forge.find_comment = self._find  # type: ignore[method-assign]
        self.forge.upsert_comment = self._upsert  # type: ignore[method-assign]
        self.context = replace(self.context, change_rounds=lambda _, __: self.rounds)
        self.written: list[str] = []
        self.rounds = "1 review round"
        self.label()
        self.deliver_all()

    async def _find(self, *_: object) -> Comment | None:
        return Comment("1", US, self.written[-1], self.server.now) if self.written else None

    async def _upsert(self, _: object, __: str, body: str, **___: object) -> Comment:
        self.written.append(body)
        return Comment("1", US, body, self.server.now)

    @property
    def shown(self) -> State:
        state = read_state(self.written[-1])
        assert state is not None
        return state

    def deliver_all(self) -> None:
        while self.forge.webhooks:
            self.deliver()
            self.finish()

    def unlabel_and_stop(self) -> None:
        self.server.now += timedelta(seconds=2)
        self.unlabel()
        self.read_and_stop()

    def read_and_stop(self) -> None:
        """The reporter reads the item, and cancels its run; the operator ends it."""
        self.deliver_all()
        self.reconcile()
        self.finish()
        self.operate()

    def report(self, times: int) -> None:
        for _ in range(times):
            self.reconcile()
            self.finish()
            self.server.now += timedelta(seconds=GRACE + 1)

    def has(self, run: int, result: dict[str, str]) -> None:
        body = self.runs()[run - 1]
        body["status"]["result"] = result
        self.server.write(body)


def test_the_comment_of_a_cancelled_run_shows_no_later_rounds() -> None:
    issue = Commented()
    issue.operate()
    issue.report(1)
    issue.unlabel_and_stop()
    issue.has(1, CHANGE)
    issue.report(3)
    assert (issue.shown.phase, issue.shown.change_url) == (Phase.CANCELLED, CHANGE["changeURL"])
    before = len(issue.written)
    # A further round of the change ends. Then somebody writes a command on the issue, so it is read again.
    issue.rounds = "2 review rounds"
    [body] = issue.runs()
    del body["metadata"]["labels"][LABEL_REPORTED]
    issue.server.write(body)
    issue.memories.clear()
    issue.report(1)
    assert issue.written[before:] == []


def test_the_comment_of_a_waiting_run_shows_the_change_that_the_run_before_it_has_opened() -> None:
    issue = Commented()
    issue.operate()
    issue.report(1)
    issue.server.now += timedelta(seconds=2)
    issue.unlabel()
    issue.server.now += timedelta(seconds=2)
    issue.label()
    issue.read_and_stop()
    issue.has(1, CHANGE)
    for _ in range(4):  # the second run follows once the first has ended
        issue.reconcile()
        issue.finish()
    assert [run["spec"]["run"] for run in issue.runs()] == [1, 2]
    issue.unlabel_and_stop()
    issue.report(12)
    assert (issue.shown.run, issue.shown.phase) == (2, Phase.CANCELLED)
    assert issue.shown.change_url == CHANGE["changeURL"]
