"""Whatever happens in whatever order, no day's and no month's spending exceeds its budget."""

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task.agenttask import AgentTask, AttemptStatus, OutcomeType
from coding_agent_core.task.usage import Allowance, Usage
from coding_agent_operator.cluster.observed import Job, job_name
from coding_agent_operator.scheduling.fair_share import Candidate, fair_schedule
from coding_agent_operator.tasks.budgets import Spending, next_allowance, used_up
from coding_agent_operator.tasks.state import Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.making import changed, task_body

ONE_DAY, ONE_MONTH = 12, 30
BUDGETS = Budgets(
    task=Allowance(tokens=5), repository=Allowance(tokens=ONE_DAY), namespace=Allowance(tokens=ONE_MONTH)
)
TASKS, REPOSITORIES = 9, ("octo/one", "octo/two")


class Model:
    """Tasks and Jobs as the API server has them, and what the agents have really spent."""

    def __init__(self) -> None:
        self.now = datetime.fromisoformat("2026-01-30T12:00:00Z")
        self.tasks: dict[str, AgentTask] = {}
        for number in range(TASKS):
            body = task_body(number + 1, repository=REPOSITORIES[number % 2], uid=f"uid-{number}")
            self.tasks[body["metadata"]["name"]] = AgentTask.of(body)
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, AgentTask] = {}
        self.spent_by: Counter[str] = Counter()
        self.days: Counter[tuple[str, str]] = Counter()
        self.months: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """The operator is killed, and reads again what there is."""
        self.spending = Spending(BUDGETS, lambda: self.now)
        for task in self.ended.values():
            self.spending.ended(task)

    def start(self) -> None:
        """A pass of the scheduler, and the Jobs that follow from it; their attempts are not recorded yet."""
        candidates = []
        for name, task in self.tasks.items():
            own = [self.jobs[name]] if name in self.jobs else []
            stage = Stage.ACTIVE if own else Stage.READY
            budgets, demand = self.spending.share(task, own, starts=not own)
            candidates.append(
                Candidate(name=name, item=name, repository=task.repository_hash, stage=stage,
                          created=task.metadata.created, repository_limit=99, budgets=budgets, demand=demand)
            )  # fmt: skip
        running = {c.name: c.demand for c in candidates if c.stage is Stage.ACTIVE}
        unspent = self.spending.unspent(self.tasks.values(), running)
        for name in fair_schedule(candidates, 99, self.now, aging=60, unspent=unspent).start:
            task = self.tasks[name]
            number = len(task.status.attempts) + 1
            self.jobs[name] = Job(
                name=job_name(name, number), uid=f"{name}-{number}", owner=task.uid, task=name,
                number=number, created=self.now, labels={}, allowance=next_allowance(task, BUDGETS),
            )  # fmt: skip

    def _job(self, which: int) -> Job | None:
        return list(self.jobs.values())[which % len(self.jobs)] if self.jobs else None

    def spend(self, which: int, answers: int) -> None:
        """Answers of the model, within the attempt's allowance."""
        job = self._job(which)
        if job is None or job.task is None or job.allowance is None:
            return
        answers = min(answers, int(job.allowance.value) - self.spent_by[job.name])
        self.spent_by[job.name] += answers
        self.days[self.tasks[job.task].repository_hash, f"{self.now:%Y-%m-%d}"] += answers
        self.months[f"{self.now:%Y-%m}"] += answers

    def end(self, which: int, how: str) -> None:
        job = self._job(which)
        if job is None or job.task is None:
            return
        usage = Usage(requests=1, input_tokens=self.spent_by[job.name]) if how != "lost" else None
        attempt = AttemptStatus(
            number=job.number or 1, job=job.name, start_time=job.created, completion_time=self.now,
            outcome=OutcomeType.FAILED, reason="Because", allowance=job.allowance, usage=usage,
        )  # fmt: skip
        task = self.tasks[job.task]
        attempts = (*task.status.attempts, attempt)
        task = changed(task, status=task.status.model_copy(update={"attempts": attempts}))
        del self.jobs[job.task]
        if how == "done" or used_up(attempts) is not None:
            del self.tasks[task.name]
            self.ended[task.name] = task
            self.spending.ended(task)
        else:
            self.tasks[task.name] = task

    def check(self) -> None:
        assert max(self.days.values(), default=0) <= ONE_DAY, self.days
        assert max(self.months.values(), default=0) <= ONE_MONTH, self.months


_STEPS: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("spend"), st.integers(0, 8), st.integers(1, 5)),
    st.tuples(st.just("spend"), st.integers(0, 8), st.just(5)),
    st.tuples(st.just("end"), st.integers(0, 8), st.sampled_from(["done", "failed", "lost"])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


@given(st.lists(_STEPS, min_size=30, max_size=80))
@settings(max_examples=40)
def test_no_period_exceeds_its_budget(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    for step, *arguments in steps:
        if step == "wait":
            model.now += timedelta(hours=arguments[0])
        else:
            getattr(model, step)(*arguments)
        model.check()


def test_what_is_left_is_used() -> None:
    """The model spends the whole budget where everything goes well, so that it can find what is too much."""
    model = Model()
    for _ in range(20):
        model.start()
        for which in range(TASKS):
            model.spend(which, 5)
        for _ in range(TASKS):
            model.end(0, "failed")
        model.check()
    assert set(model.days.values()) == {10}, "two tasks of five in each repository; two are left"


def test_a_task_that_is_gone_takes_nothing_from_what_the_others_have_spent() -> None:
    """The cache drops a task that has ended, and a pass may come before its end is counted."""
    model = Model()
    model.start()
    mine = model.tasks[next(iter(model.jobs))].repository_hash
    first, second = [name for name in model.jobs if model.tasks[name].repository_hash == mine][:2]
    model.spend(list(model.jobs).index(first), 3)
    model.end(list(model.jobs).index(first), "failed")
    running = {second: Decimal(5)}
    before = model.spending.unspent(model.tasks.values(), running)
    del model.tasks[second]
    after = model.spending.unspent(model.tasks.values(), {})
    assert after[mine] == before[mine] - 5


def test_a_task_that_has_ended_is_counted_once_while_the_cache_still_has_it() -> None:
    model = Model()
    model.start()
    name = next(iter(model.jobs))
    mine = model.tasks[name].repository_hash
    model.spend(0, 3)
    model.end(0, "failed")
    before = model.spending.unspent(model.tasks.values(), {})
    model.spending.ended(model.tasks[name])
    assert model.spending.unspent(model.tasks.values(), {})[mine] == before[mine]
