"""Stores tasks as AgentTasks: exactly one for each application of the label."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer
from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.admission import (
    Cancel,
    Check,
    Duplicate,
    Keep,
    admit,
    announcement,
    cancellation,
    check_label,
    first_run,
    free_run,
    is_announced,
    is_fresh,
    latest_of,
    must_look,
    note,
    runs_of,
    withdraw,
    withdrawn,
    works,
)
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.commands import CommandIgnored, CommandStored, IssueCommand, store
from coding_agent_core.task.model import (
    Cause,
    Item,
    Origin,
    Submission,
    TaskRequest,
    Trigger,
    Withdrawal,
    task_name,
)

_logger = logging.getLogger("coding_agent.queue")
_T = TypeVar("_T")

MANAGER = "coding-agent-receiver"
ROLE = "receiver/deploy/role.yaml"
TOTAL_TIMEOUT = 4.0
"""Maximum number of seconds for one submission or withdrawal with all tries: forges are answered within 5."""
REQUEST_TIMEOUT = 2.0
"""Maximum number of seconds for one request to the API server."""
PROBE_TIMEOUT = 1.9
TRIES = 8
"""Maximum number of tries of one operation, however quickly they fail."""
_HAD_ITS_ROUND = "this cause has had its round"
_RACES = 10
"""Maximum number of decisions of one operation. A further one is needed if the item's tasks have changed."""


class KubernetesSink:
    """The task sink on the API server, for one event loop. It connects with the first call.

    Args:
        namespace: the namespace for the tasks; `None` for that of the credentials.
        limits: the limits on time and attempts that new tasks get.
        fence: called before every write; it raises `ApiError` if this process may not write now.

    Example:
        sink = KubernetesSink(Access.find(), "coding-agent", settings.consumer)
        submission = await sink.submit(request)
        print(submission.task, submission.duplicate or "is new")
        await sink.aclose()
    """

    def __init__(
        self,
        access: Access,
        namespace: str | None,
        limits: Consumer,
        *,
        total_timeout: float = TOTAL_TIMEOUT,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self._fence = fence
        self._access = access
        self._namespace = namespace
        self._limits = limits
        self._total_timeout = total_timeout
        self._policy = RetryPolicy(
            TRIES, total_timeout, first_wait=0.1, longest_wait=1.0, longest_retry_after=total_timeout
        )
        self._jitter = jitter
        self._now = now
        self._tasks: AgentTasks | None = None
        self._connecting = asyncio.Lock()
        self._was_connected = True

    async def submit(self, request: TaskRequest) -> Submission:
        """Admit the request, and store it as an AgentTask. A failed request is repeated for a few seconds."""
        unanswered: set[str] = set()
        return await self._bounded(lambda tasks: self._submit(tasks, request, unanswered))

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        """Cancel all active runs of the item, if admission decides so."""
        return await self._bounded(lambda tasks: self._withdraw(tasks, withdrawal))

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Store a command in the item's newest AgentTask, for the reporter."""
        return await self._bounded(lambda tasks: self._command(tasks, command))

    async def look(self, items: Sequence[Item], author: str = "") -> str | None:
        """Ask the reporter to scan a change, in an annotation of the items' newest AgentTask."""
        return await self._bounded(lambda tasks: self._look(tasks, items, author))

    async def connected(self) -> bool:
        """Whether tasks can be stored now, as a read of one task shows."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await (await self._connected()).probe()
        except Exception as error:  # any error means that there is no connection
            if self._was_connected:
                _logger.warning("Not ready: %s", str(error) or "the Kubernetes API server does not answer")
            self._was_connected = False
            if isinstance(error, ApiError) and error.status == 401:
                await self._renew()
        else:
            self._was_connected = True
        return self._was_connected

    async def aclose(self) -> None:
        if self._tasks is not None:
            await self._tasks.aclose()

    async def _submit(self, tasks: AgentTasks, request: TaskRequest, unanswered: set[str]) -> Submission:
        """Admit the request, based on the item's runs.

        Args:
            unanswered: the names of tasks that this submission may have created, because an answer was lost.
        """
        request = await _as_trusted_as_its_issue(tasks, request)
        if request.trigger.round is not None:
            return await self._submit_round(tasks, request, unanswered)
        taken: set[str] = set()
        # The item of a fresh label has almost never a run. Creating run 1 without a read saves a request, and
        # the API server refuses it if the name is taken.
        if is_fresh(request.trigger) and not unanswered:
            name = task_name(request.item)
            if await self._create(tasks, request, 1, unanswered):
                return Submission(task=name)
            taken.add(name)
        for _ in range(_RACES):
            stored = await _stored(tasks, request.item, taken)
            runs = runs_of(request.item, stored)
            # A request whose response was lost may have created the task. Then it has exactly our trigger.
            own = next((task for task in runs if task.name in unanswered), None)
            if own is not None and own.spec.trigger == request.trigger:
                return Submission(task=own.name)
            latest = latest_of(runs)
            if latest is None:
                create = admit(request.trigger, None)
            else:
                decision = admit(request.trigger, latest)
                if isinstance(decision, Duplicate):
                    record = note(runs[-1], request.trigger, decision, latest)
                    # If the patch fails, the task has changed, so the decision is made again.
                    if record is None or await tasks.patch(runs[-1], record):
                        return Submission(task=decision.task, duplicate=decision.why)
                    continue
                create = decision
            first, newest = first_run(request.item, runs), runs[-1] if runs else None
            # The patches fail if a withdrawal or another receiver has changed these tasks since they were
            # read.
            told = {task.uid: task for task in (first, newest) if task is not None}
            if not all([await tasks.patch(task, announcement(self._now())) for task in told.values()]):
                continue  # run 1 was deleted, so its name is free, or the decision may be another one now
            run = free_run(request.item, create.run, stored)
            name = task_name(request.item, run)
            if await self._create(tasks, request, run, unanswered, check=_why_check_label(request.trigger)):
                return Submission(task=name)
            taken.add(name)
        raise QueueUnavailableError(
            f"The tasks of {request.item.display} change too quickly to decide on one."
        )

    async def _submit_round(
        self, tasks: AgentTasks, request: TaskRequest, unanswered: set[str]
    ) -> Submission:
        """Create a round, unless its cause had one, which would have the same name."""
        name = task_name(request.item, round_part=request.trigger.name_part)
        runs = await _runs(tasks, request.item)
        if any(run.name == name for run in runs):
            # After a lost answer, the round with this name is our own.
            return Submission(name, None if name in unanswered else _HAD_ITS_ROUND)
        decision = admit(request.trigger, latest_of(runs))
        if isinstance(decision, Duplicate):
            return Submission(decision.task, decision.why)
        created = await self._create(tasks, request, decision.run, unanswered)
        return Submission(name, None if created else _HAD_ITS_ROUND)

    async def _create(
        self,
        tasks: AgentTasks,
        request: TaskRequest,
        run: int,
        unanswered: set[str],
        *,
        check: str | None = None,
    ) -> bool:
        """Create a run. Return `False` if its name is taken."""
        task = manifest(
            request,
            run=run,
            timeout_seconds=self._limits.timeout_seconds,
            max_attempts=self._limits.max_attempts,
            check_label=check,
        )
        name = task["metadata"]["name"]
        # If the first request finds the name taken, the task is another submission's. After a lost response,
        # it may be our own.
        first = name not in unanswered
        unanswered.add(name)
        created = await tasks.create(task)
        if first:
            unanswered.discard(name)
        return created is not None

    async def _withdraw(self, tasks: AgentTasks, withdrawal: Withdrawal) -> Cancel | Keep:
        for _ in range(_RACES):
            runs = await _runs(tasks, withdrawal.item)
            match withdraw(withdrawal, latest_of(runs)):
                case Keep() as kept:
                    before = kept.withdrawn_before
                    if before is None or await tasks.patch(runs[-1], withdrawn(before)):
                        return kept
                case Check(_, why):
                    if await tasks.patch(runs[-1], check_label(why)):
                        return Keep(f"{why}; the reporter cancels the task if the item shows no label")
                case Cancel() as cancelled:
                    # More than one run is active only if the operator has not found a duplicate yet.
                    patch = cancellation(withdrawal.reason, withdrawal.cause, cancelled.withdrawn_before)
                    if all([await tasks.patch(task, patch) for task in runs if works(task)]):
                        return cancelled
        raise QueueUnavailableError(
            f"The tasks of {withdrawal.item.display} change too quickly to cancel one."
        )

    async def _command(self, tasks: AgentTasks, command: IssueCommand) -> CommandStored | CommandIgnored:
        for _ in range(_RACES):
            runs = await _runs(tasks, command.item)
            latest = latest_of(runs)
            if latest is None:
                return CommandIgnored("the item has no task; apply the label to start one")
            # A run remembers the command that started it, so a delivery that comes again starts no other.
            if command.trigger_id in latest.delivery_ids:
                return CommandIgnored("it has already been executed")
            patch = store(runs[-1], command)
            if isinstance(patch, CommandIgnored):
                return patch
            if await tasks.patch(runs[-1], patch):
                return CommandStored(latest.name)
        raise QueueUnavailableError(
            f"The tasks of {command.item.display} change too quickly to store a command on one."
        )

    async def _look(self, tasks: AgentTasks, items: Sequence[Item], author: str) -> str | None:
        for item in items:
            for _ in range(_RACES):
                runs = await _runs(tasks, item)
                if not runs:
                    break
                # The reporter watches tasks, so an annotation on the newest one reaches it without another
                # channel.
                if await tasks.patch(runs[-1], must_look(runs[-1], self._now(), items, author)):
                    return runs[-1].name
            else:
                raise QueueUnavailableError(f"The tasks of {item.display} change too quickly.")
        return None

    async def _bounded(self, operation: Callable[[AgentTasks], Awaitable[_T]]) -> _T:
        """Run an operation within the total time; repeat it from its first read after a temporary error."""
        problem: BaseException | None = None

        def remember(error: BaseException, *_: float) -> None:
            nonlocal problem
            problem = error

        async def attempt() -> _T:
            tasks = await self._connected()
            try:
                return await operation(tasks)
            except ApiError as error:
                if error.status != 401:
                    raise
            await self._renew()  # the credentials have expired
            return await operation(tasks)

        try:
            async with asyncio.timeout(self._total_timeout):
                clock = Clock(chance=self._jitter)
                return await retry(attempt, self._policy, clock, retryable=temporary, before_wait=remember)
        except (ApiError, TimeoutError) as error:
            if isinstance(error, ApiError):
                problem = error
            sentence = str(problem or "the Kubernetes API server did not answer in time")
            raise QueueUnavailableError(sentence) from error

    async def _connected(self) -> AgentTasks:
        async with self._connecting:
            if self._tasks is None:
                server = await ApiServer.connect(self._access, REQUEST_TIMEOUT, role=ROLE)
                namespace = self._namespace or server.namespace or "default"
                self._tasks = AgentTasks(server, namespace, MANAGER, fence=self._fence)
                _logger.info("Tasks are AgentTasks in namespace %s", self._tasks.namespace)
            return self._tasks

    async def _renew(self) -> None:
        if self._tasks is not None:
            await self._tasks.renew()


def _why_check_label(trigger: Trigger) -> str | None:
    """Return why the reporter must check the label of a further run; `None` if it need not.

    A withdrawal cancels only runs that exist. So the run that is created now escapes a withdrawal that
    another process handles at the same time, or that arrived first although it happened in the same second.
    Labels that a webhook shows may be off the item by now.
    """
    by_webhook = trigger.origin in (Origin.WEBHOOK, Origin.REDELIVERY, Origin.LABELS)
    by_label = by_webhook and trigger.cause is Cause.LABEL
    return "a withdrawal may have been handled while this run was created" if by_label else None


async def _as_trusted_as_its_issue(tasks: AgentTasks, request: TaskRequest) -> TaskRequest:
    """Return the request, marked as trusted if its change is our work for an issue with trusted tasks.

    An issue without stored tasks is not trusted.
    """
    if request.trusted or request.answers is None:
        return request
    runs = await _runs(tasks, request.answers)
    # One stranger's text among the runs is enough to distrust the work that followed.
    trusted = bool(runs) and all(task.spec.trusted for task in runs)
    return request.model_copy(update={"trusted": trusted})


async def _runs(tasks: AgentTasks, item: Item) -> list[AgentTask]:
    """Return the item's runs; the newest is last."""
    return runs_of(item, await _stored(tasks, item, ()))


async def _stored(tasks: AgentTasks, item: Item, taken: Collection[str]) -> list[AgentTask]:
    """Return the tasks with the item's label, and the tasks whose names were taken.

    The item's runs are among them. A task whose name was taken is not listed if somebody removed its labels,
    or if it belongs to another item.
    """
    try:
        listed = list(await tasks.runs(item))
    except ApiError as error:
        if not error.uncached:
            raise
        # The API server refuses lists for seconds after a change of the CRD, but single reads work. Run 1 is
        # deleted last, and further runs are announced on it. So it shows whether the item has other runs.
        first = await tasks.get(task_name(item))
        if first is not None and (is_announced(first) or not runs_of(item, [first])):
            raise
        listed = [first] if first is not None else []
    for name in sorted(set(taken) - {task.name for task in listed}):
        unlabeled = await tasks.get(name)
        listed += [unlabeled] if unlabeled is not None else []
    return listed


def temporary(error: BaseException) -> bool:
    """Whether a retry can help: there was no answer, 5xx, or 429 (priority and fairness asks to wait for at
    least one second, https://kubernetes.io/docs/concepts/cluster-administration/flow-control/).
    """
    if not isinstance(error, ApiError):
        return False
    return error.status is None or error.status == 429 or error.status >= 500
