"""A cluster in memory that does what `plan_task` and `fair_schedule` plan, and in which anything can fail."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from coding_agent_core.settings.operator import Limits
from coding_agent_core.task.agenttask import AgentTask, Status
from coding_agent_operator.cluster.observed import Job, Pod, job_name
from coding_agent_operator.scheduling.fair_share import UNLIMITED, Candidate, coarse, fair_schedule
from coding_agent_operator.tasks.outcome_of import AttemptPolicy
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task
from coding_agent_operator.tasks.state import Stage, stage_of

from tests.unit.operator.making import NOW, changed, pod, task_body

_T = TypeVar("_T")

LIMITS = Limits.model_validate({"global": 4, "per_repository": 2, "overrides": {"octo/one": 1}})
POLICY = AttemptPolicy(
    unschedulable_after=100,
    max_disruptions=4,
    keep_jobs=100,
    backoff_base=1,
    backoff_max=10,
    asked_max=10,
    pod_check_interval=15,
    image_after=50,
)


class Cluster:
    """What the API server has."""

    def __init__(self, *, kueue: bool = False) -> None:
        self.kueue = kueue
        self.now: datetime = NOW
        self.tasks: dict[str, AgentTask] = {}
        self.jobs: dict[str, Job] = {}
        self._version = 0
        self.ran: dict[str, set[str]] = {}
        """Of each task the uids of all Jobs that ever were."""

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
        if self.kueue:
            job = replace(job, suspended=True, queue="q", pods=(), ready=0)
        self.jobs[name] = job
        self.ran.setdefault(task.name, set()).add(job.uid)
        return job

    def admit(self, name: str) -> None:
        """Kueue admits a Job."""
        job = self.jobs[name]
        if job.waiting and not job.deleting:
            running = (pod(phase="Running", created=self.now),)
            self.jobs[name] = replace(job, suspended=False, started=self.now, ready=1, pods=running)

    def preempt(self, name: str) -> None:
        """Kueue takes its place back."""
        job = self.jobs[name]
        if not job.finished:
            self.jobs[name] = replace(job, suspended=True, started=None, ready=0, pods=())

    def end_job(self, name: str, ending: Pod) -> None:
        job = self.jobs[name]
        if job.finished or job.suspended:
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
        if not self.jobs[name].finished and not self.jobs[name].suspended:
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
                    repository_limit=UNLIMITED
                    if self.cluster.kueue
                    else LIMITS.of(source.host, source.repository),
                    run=task.spec.run,
                    priority=task.spec.priority,
                )
            )
        limit = UNLIMITED if self.cluster.kueue else LIMITS.global_
        planned = fair_schedule(candidates, limit, self.cluster.now, aging=60)
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
