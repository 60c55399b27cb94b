"""`plan_task` and `fair_schedule` over a simulated cluster, whatever happens in whatever order (hypothesis).

At no moment are limits exceeded, two Jobs of an item active, or attempts above the maximum; and once the
world calms down every task comes to its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from coding_agent_core.agenttask import AgentTask, OutcomeType, Status
from coding_agent_core.reasons import Reason
from coding_agent_core.settings.operator import Limits, Policy
from coding_agent_core.tasks import Phase
from coding_agent_operator.fair_share import Candidate, coarse, fair_schedule
from coding_agent_operator.observed import Job, Pod, job_name
from coding_agent_operator.task_plan import SchedulingDecision, plan_task
from coding_agent_operator.task_state import Stage, stage_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.operator.making import NOW, changed, pod, said, task_body

_T = TypeVar("_T")

LIMITS = Limits.model_validate({"global": 4, "per_repository": 2, "overrides": {"octo/one": 1}})
POLICY = Policy(backoff_base=1, backoff_max=10, max_disruptions=4, unschedulable_after=100, image_after=50)


class Cluster:
    """What the API server has."""

    def __init__(self) -> None:
        self.now: datetime = NOW
        self.tasks: dict[str, AgentTask] = {}
        self.jobs: dict[str, Job] = {}
        self._version = 0

    def version(self) -> str:
        self._version += 1
        return str(self._version)

    def add_task(self, number: int, repository: str, run: int, **spec: Any) -> None:
        body = task_body(
            number, repository=repository, run=run, uid=f"uid-{repository}-{number}-{run}", **spec
        )
        body["metadata"]["creationTimestamp"] = self.now.isoformat()
        task = changed(AgentTask.of(body), version=self.version())
        self.tasks.setdefault(task.name, task)

    def change(self, name: str, **fields: Any) -> None:
        known = self.tasks[name]
        self.tasks[name] = changed(
            known, version=self.version(), generation=known.metadata.generation + 1, **fields
        )

    def create_job(self, task: AgentTask, number: int) -> Job:
        """As the API server does it: a name is taken once (409 gives back the one that has it)."""
        name = job_name(task.name, number)
        if name in self.jobs:
            return self.jobs[name]
        job = Job(
            name=name,
            uid=f"{name}/{self.version()}",
            owner=task.uid,
            task=task.name,
            number=number,
            created=self.now,
            labels={},
            pods=(pod(phase="Running", created=self.now),),
            ready=1,
        )
        self.jobs[name] = job
        return job

    def end_job(self, name: str, ending: Pod) -> None:
        job = self.jobs[name]
        if job.finished:
            return
        good = ending.phase == "Succeeded"
        self.jobs[name] = replace(
            job,
            complete=good,
            failure=None if good else "BackoffLimitExceeded",
            finished_at=self.now,
            pods=(ending,),
            ready=0,
        )

    def set_pods(self, name: str, *pods: Pod) -> None:
        if not self.jobs[name].finished:
            self.jobs[name] = replace(self.jobs[name], pods=pods, ready=0)

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.finished]


class Operator:
    """`Engine` and `Reconciler` without I/O: the same order of effects, the same sight of the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.seen: dict[str, AgentTask] = {}
        self.jobs: dict[str, Job] = {}
        self.granted: set[str] = set()
        self.decisions: dict[str, SchedulingDecision] = {}
        self.sync()

    def sync(self) -> None:
        """A consistent list, as after the start."""
        self.seen, self.jobs = dict(self.cluster.tasks), dict(self.cluster.jobs)

    def watch(self, name: str) -> None:
        """An event of one task or Job comes, late or twice; it shows the object's current state."""
        _show(self.cluster.tasks, self.seen, name)
        _show(self.cluster.jobs, self.jobs, name)

    def schedule(self) -> None:
        candidates = []
        for task in self.seen.values():
            jobs = [job for job in self.jobs.values() if job.owner == task.uid]
            stage = (
                Stage.ACTIVE if task.name in self.granted else stage_of(task, jobs, self.cluster.now, POLICY)
            )
            source = task.spec.source
            candidates.append(
                Candidate(
                    name=task.name,
                    item=task.item_hash,
                    repository=task.repository_hash,
                    created=task.metadata.created,
                    stage=stage,
                    limit=LIMITS.of(source.host, source.repository),
                    run=task.spec.run,
                    priority=task.spec.priority,
                )
            )
        planned = fair_schedule(candidates, LIMITS.global_, self.cluster.now, aging=POLICY.aging)
        self.granted.update(planned.start)
        self.decisions = {
            name: SchedulingDecision(position=coarse(place), after=planned.after.get(name))
            for name, place in planned.positions.items()
        }

    def reconcile(self, name: str, dies_after: int = 99) -> None:
        """One look at one task, cut off after so many effects (the process is killed)."""
        task = self.seen.get(name)
        if task is None:
            return
        jobs = {job.name: job for job in self.jobs.values() if job.owner == task.uid}
        for attempt in task.status.attempts:
            if attempt.outcome is None and attempt.job not in jobs and attempt.job in self.cluster.jobs:
                jobs[attempt.job] = self.cluster.jobs[attempt.job]
        decision = self.decisions.get(name, SchedulingDecision())
        plan = plan_task(
            task, list(jobs.values()), replace(decision, start=name in self.granted), self.cluster.now, POLICY
        )
        if plan.create is not None:
            made = self.cluster.create_job(task, plan.create)
            if dies_after == 0:
                return
            self.jobs[made.name] = jobs[made.name] = made
            plan = plan_task(task, list(jobs.values()), SchedulingDecision(), self.cluster.now, POLICY)
        if plan.status is not None and not self._write(task, plan.status):
            self.watch(name)
            return
        self.granted.discard(name)
        if dies_after <= 1:
            return
        for job in plan.delete:
            if job.name in self.cluster.jobs:
                self.cluster.jobs[job.name] = replace(self.cluster.jobs[job.name], deleting=True)
                self.watch(job.name)

    def _write(self, task: AgentTask, status: Status) -> bool:
        known = self.cluster.tasks.get(task.name)
        if known is None or known.version != task.version:
            return False
        self.cluster.tasks[task.name] = changed(known, status=status, version=self.cluster.version())
        self.seen[task.name] = self.cluster.tasks[task.name]
        return True

    def later(self, seconds: float) -> None:
        self.cluster.now += timedelta(seconds=seconds)


def _show(theirs: dict[str, _T], ours: dict[str, _T], name: str) -> None:
    if name in theirs:
        ours[name] = theirs[name]
    else:
        ours.pop(name, None)


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

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
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
                self.cluster.end_job(name, pod(phase="Succeeded", exit_code=0))
            self.operator.later(20)
        self.ends_stay()

    def any_task(self, which: int) -> Any:
        names = sorted(self.cluster.tasks)
        return self.cluster.tasks[names[which % len(names)]] if names else None

    def any_job(self, which: int) -> str:
        names = sorted(self.cluster.jobs)
        return names[which % len(names)]


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
