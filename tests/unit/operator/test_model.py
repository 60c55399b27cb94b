"""`plan_task` and `fair_schedule` over a simulated cluster, whatever happens in whatever order (hypothesis).

At no moment are limits exceeded, two Jobs of an item active, or attempts above the maximum; and once the
world calms down every task comes to its end.
"""

from collections import Counter
from typing import Any

from coding_agent_core.task.agenttask import OutcomeType
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.operator.making import pod, said
from tests.unit.operator.simulation import LIMITS, POLICY, Cluster, Operator

REPOSITORIES = ["octo/one", "octo/two", "octo/three"]
ENDS: list[dict[str, Any]] = [
    {"phase": "Succeeded", "exit_code": 0},
    said(Reason.COMPLETED, branch="b"),
    said(Reason.MODEL_UNAVAILABLE, retry_after=3.0),
    said(Reason.FORGE_REFUSED),
    {"exit_code": 65},
    {"exit_code": 75},
    {"exit_code": 137, "ended": "OOMKilled"},
    {"exit_code": 143},
    {"exit_code": 143, "disruption": "PreemptionByScheduler"},
    {"disruption": "DeletionByTaintManager"},
]
STUCK: list[dict[str, Any]] = [
    {"phase": "Pending", "unschedulable": True},
    {"phase": "Pending", "waiting": "ErrImagePull"},
    {"phase": "Pending", "waiting": "CreateContainerConfigError"},
    {"phase": "Running"},
]
pick = st.integers(0, 10_000)


class Fleet(RuleBasedStateMachine):
    """People, the cluster and the operator take turns in any order."""

    kueue = False

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(kueue=self.kueue)
        self.operator = Operator(self.cluster)
        self.ended: dict[str, Phase | None] = {}

    @initialize(numbers=st.lists(st.tuples(pick, pick), min_size=3, max_size=9))
    def tasks(self, numbers: list[tuple[int, int]]) -> None:
        for number, repository in numbers:
            self.label(number, repository, 1, 0)

    @rule(number=pick, repository=pick, run=st.integers(1, 2), priority=st.integers(-5, 5))
    def label(self, number: int, repository: int, run: int, priority: int) -> None:
        if len(self.cluster.tasks) < 14:
            path = REPOSITORIES[repository % 3]
            self.cluster.add_task(number % 4 + 1, path, run, maxAttempts=number % 3 + 1, priority=priority)

    @rule(which=pick, field=st.sampled_from(["cancel", "suspend", "resume"]))
    def person(self, which: int, field: str) -> None:
        if task := self.any_task(which):
            change = {"cancel": {"cancel": True}, "suspend": {"suspend": True}, "resume": {"suspend": False}}
            self.cluster.change(task.name, spec=task.spec.model_copy(update=change[field]))

    @precondition(lambda self: self.cluster.jobs)
    @rule(which=pick, how=st.sampled_from(ENDS))
    def pod_ends(self, which: int, how: dict[str, Any]) -> None:
        self.cluster.end_job(self.any_job(which), pod(**how))

    @precondition(lambda self: self.cluster.jobs)
    @rule(which=pick, how=st.sampled_from(STUCK))
    def pod_is_stuck(self, which: int, how: dict[str, Any]) -> None:
        self.cluster.set_pods(self.any_job(which), pod(created=self.cluster.now, **how))

    @precondition(lambda self: self.cluster.jobs)
    @rule(which=pick)
    def job_is_deleted_by_hand(self, which: int) -> None:
        del self.cluster.jobs[self.any_job(which)]

    @rule()
    def deletions_finish(self) -> None:
        self.cluster.jobs = {name: job for name, job in self.cluster.jobs.items() if not job.deleting}

    @rule(which=pick, job=st.booleans())
    def event_comes(self, which: int, job: bool) -> None:
        names = sorted({*self.cluster.jobs, *self.operator.jobs} if job else self.cluster.tasks)
        if names:
            self.operator.watch(names[which % len(names)])

    @rule(seconds=st.sampled_from([0.5, 3, 20, 120, -30, 7200, -7200]))
    def clock_moves(self, seconds: float) -> None:
        self.operator.later(seconds)

    @rule()
    def scheduling_pass(self) -> None:
        self.operator.schedule()

    @rule(which=pick)
    def look(self, which: int) -> None:
        if task := self.any_task(which):
            self.operator.reconcile(task.name)

    @rule(which=pick, effects=st.integers(0, 1))
    def killed_while_looking(self, which: int, effects: int) -> None:
        if task := self.any_task(which):
            self.operator.reconcile(task.name, dies_after=effects)
        self.operator = Operator(self.cluster)

    @invariant()
    def limits_hold(self) -> None:
        running = self.cluster.unfinished()
        tasks = {task.uid: task for task in self.cluster.tasks.values()}
        if not self.kueue:
            assert len(running) <= LIMITS.global_
            per = Counter(tasks[job.owner or ""].spec.source.repository for job in running)
            assert all(count <= LIMITS.of("github.com", path) for path, count in per.items())
        items = Counter(tasks[job.owner or ""].item_hash for job in running)
        assert all(count == 1 for count in items.values()), "one active Job of an item"

    @invariant()
    def attempts_are_bounded(self) -> None:
        for task in self.cluster.tasks.values():
            counted = [a for a in task.status.attempts if a.counted]
            assert len(counted) <= task.spec.max_attempts
            assert len({a.number for a in task.status.attempts}) == len(task.status.attempts)
            suspended = sum(1 for a in task.status.attempts if a.reason == "Suspended")
            assert (
                len(task.status.attempts) <= task.spec.max_attempts + POLICY.max_disruptions + 1 + suspended
            )

    @invariant()
    def ends_stay(self) -> None:
        for task in self.cluster.tasks.values():
            if task.name in self.ended:
                assert task.status.phase is self.ended[task.name]
            elif task.ended:
                self.ended[task.name] = task.status.phase
                if task.status.phase is Phase.SUCCEEDED:
                    assert any(a.outcome is OutcomeType.SUCCEEDED for a in task.status.attempts)

    def teardown(self) -> None:
        """The world calms down: pods succeed, people resume, nothing is lost. All come to an end, soon."""
        for task in list(self.cluster.tasks.values()):
            self.cluster.change(task.name, spec=task.spec.model_copy(update={"suspend": False}))
        rounds = 0
        while any(not task.ended for task in self.cluster.tasks.values()):
            rounds += 1
            assert rounds < 150, {t.name: t.status.phase for t in self.cluster.tasks.values() if not t.ended}
            self.operator.sync()
            self.operator.schedule()
            for name in list(self.cluster.tasks):
                self.operator.reconcile(name)
            self.limits_hold()
            self.attempts_are_bounded()
            self.deletions_finish()
            for name in list(self.cluster.jobs):
                self.cluster.admit(name)
                self.cluster.end_job(name, pod(phase="Succeeded", exit_code=0))
            self.operator.later(20)
        self.ends_stay()

    def any_task(self, which: int) -> Any:
        names = sorted(self.cluster.tasks)
        return self.cluster.tasks[names[which % len(names)]] if names else None

    def any_job(self, which: int) -> str:
        names = sorted(self.cluster.jobs)
        return names[which % len(names)]


class KueueFleet(Fleet):
    """The same with Kueue in place of our limits: it admits and preempts as it likes."""

    kueue = True

    @precondition(lambda self: self.cluster.jobs)
    @rule(which=pick)
    def kueue_admits(self, which: int) -> None:
        self.cluster.admit(self.any_job(which))

    @precondition(lambda self: self.cluster.jobs)
    @rule(which=pick)
    def kueue_preempts(self, which: int) -> None:
        self.cluster.preempt(self.any_job(which))

    @invariant()
    def what_waits_is_not_shown_as_running(self) -> None:
        for task in self.cluster.tasks.values():
            condition = task.status.condition("Running")
            ran = any(attempt.outcome is None for attempt in task.status.attempts)
            assert ran or condition is None or condition.status != "True"


_SETTINGS = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestFleet = Fleet.TestCase
TestFleet.settings = _SETTINGS
TestKueueFleet = KueueFleet.TestCase
TestKueueFleet.settings = settings(_SETTINGS, max_examples=40)
