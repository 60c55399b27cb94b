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
from coding_agent_core.settings.development import Development
from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.commands import CommandIgnored, CommandStored, IssueCommand, store
from coding_agent_core.task.item_history import Position
from coding_agent_core.task.model import (
    Item,
    Origin,
    Submission,
    TaskRequest,
    Withdrawal,
    WithdrawalCause,
    task_name,
)
from coding_agent_core.task.runs import (
    cancellation,
    next_run,
    rescan_change,
    rescan_item,
    runs_of,
    stored_rescan,
    works,
)
from coding_agent_core.task.task_store import TaskStore

_logger = logging.getLogger("coding_agent.queue")
_T = TypeVar("_T")

MANAGER = "coding-agent-receiver"
ROLE = "receiver/deploy/role.yaml"
TOTAL_TIMEOUT = Development().webhook_timeout
"""Maximum number of seconds for one submission or withdrawal with all tries: forges are answered within 5."""
REQUEST_TIMEOUT = 2.0
"""Maximum number of seconds for one request to the API server."""
PROBE_TIMEOUT = 1.9
TRIES = 8
"""Maximum number of tries of one operation, however quickly they fail."""
_HAD_ITS_ROUND = "this cause has had its round"
_ASKED = "the item has a task; the reporter reads whether the label asks for another one"
_RACES = 10
"""Maximum number of decisions of one operation. A further one is needed if the item's tasks have changed."""


class StoreSink:
    """The task sink on a store of AgentTasks, for one event loop. It connects with the first call.

    Args:
        connect: returns the store.
        limits: the limits on time and attempts that new tasks get.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[TaskStore]],
        limits: Consumer,
        *,
        total_timeout: float = TOTAL_TIMEOUT,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._total_timeout = total_timeout
        self._policy = RetryPolicy(
            TRIES, total_timeout, first_wait=0.1, longest_wait=1.0, longest_retry_after=total_timeout
        )
        self._jitter = jitter
        self._now = now
        self._tasks: TaskStore | None = None
        self._connecting = asyncio.Lock()
        self._was_connected = True

    async def submit(self, request: TaskRequest) -> Submission:
        """Store the request as an AgentTask, or ask the reporter to read the item of a label that has one.

        A failed request is repeated for a few seconds.
        """
        unanswered: set[str] = set()
        return await self._bounded(lambda tasks: self._submit(tasks, request, unanswered))

    async def submit_next(self, request: TaskRequest, answered: Position) -> Submission:
        """Create the item's next run, which answers events up to a position, unless a run has not ended."""
        unanswered: set[str] = set()
        return await self._bounded(lambda tasks: self._submit_next(tasks, request, unanswered, answered))

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        """Cancel the item's active runs on a command; otherwise ask the reporter to read the item.

        Only the item's history says whether the label was removed before or after it was applied.
        """
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

    async def _submit(self, tasks: TaskStore, request: TaskRequest, unanswered: set[str]) -> Submission:
        """Store a request.

        Args:
            unanswered: the names of tasks that this submission may have created, because an answer was lost.
        """
        request = await _as_trusted_as_its_issue(tasks, request)
        if request.trigger.round is not None:
            return await self._submit_round(tasks, request, unanswered)
        if request.trigger.by_label:
            return await self._submit_label(tasks, request, unanswered)
        return await self._submit_next(tasks, request, unanswered, None)

    async def _submit_label(self, tasks: TaskStore, request: TaskRequest, unanswered: set[str]) -> Submission:
        """Create run 1 of an item without a task, or ask the reporter to read the item."""
        item, is_poll = request.item, request.trigger.origin is Origin.POLL
        taken: set[str] = set()
        # The item of an event has almost never a run. Creating run 1 without a read saves a request, and the
        # API server refuses it if the name is taken.
        if not is_poll and not unanswered:
            name = task_name(item)
            if await self._create(tasks, request, 1, unanswered):
                return Submission(task=name)
            taken.add(name)
        for _ in range(_RACES):
            stored = await _stored(tasks, item, taken)
            runs = runs_of(item, stored)
            if own := _own(runs, request, unanswered):
                return Submission(task=own.name)
            if not runs:
                number = next_run(item, runs, stored)
                if await self._create(tasks, request, number, unanswered):
                    return Submission(task=task_name(item, number))
                taken.add(task_name(item, number))
                continue
            newest = runs[-1]
            if is_poll and (not newest.reported or _is_asked(newest)):
                return Submission(newest.name, _ASKED)  # the reporter reads the item anyway
            if await tasks.patch(newest, rescan_item(newest, self._now(), request.trigger.labeled_at)):
                return Submission(newest.name, _ASKED)
        raise _too_quick(item)

    async def _submit_next(
        self, tasks: TaskStore, request: TaskRequest, unanswered: set[str], answered: Position | None
    ) -> Submission:
        """Create the item's next run, unless one is active or the same command had its run.

        Args:
            answered: the position that the run answers; `None` for a run that no label asked for.
        """
        taken: set[str] = set()
        for _ in range(_RACES):
            stored = await _stored(tasks, request.item, taken)
            runs = runs_of(request.item, stored)
            if own := _own(runs, request, unanswered):
                return Submission(task=own.name)
            same = next((run for run in runs if _is_of_same_act(run, request)), None)
            if same is not None:
                return Submission(same.name, "it had its run")
            waits = [run for run in runs if not run.over] if answered is not None else []
            active = next((run for run in runs if works(run) and run.spec.trigger.round is None), None)
            if active is not None or waits:
                return Submission((active or waits[-1]).name, "the item's task has not ended")
            number = next_run(request.item, runs, stored)
            if await self._create(tasks, request, number, unanswered, answered=answered):
                return Submission(task=task_name(request.item, number))
            taken.add(task_name(request.item, number))
        raise _too_quick(request.item)

    async def _submit_round(self, tasks: TaskStore, request: TaskRequest, unanswered: set[str]) -> Submission:
        """Create a round, unless its cause had one, which would have the same name."""
        name = task_name(request.item, round_part=request.trigger.name_part)
        runs = await _runs(tasks, request.item)
        if any(run.name == name for run in runs):
            # After a lost answer, the round with this name is our own.
            return Submission(name, None if name in unanswered else _HAD_ITS_ROUND)
        active = next((run for run in runs if not run.over), None)
        if active is not None:
            return Submission(active.name, "a run of the change is active; the next scan decides again")
        number = max((run.spec.run for run in runs), default=0) + 1
        created = await self._create(tasks, request, number, unanswered)
        return Submission(name, None if created else _HAD_ITS_ROUND)

    async def _create(
        self,
        tasks: TaskStore,
        request: TaskRequest,
        run: int,
        unanswered: set[str],
        *,
        answered: Position | None = None,
    ) -> bool:
        """Create a run. Return `False` if its name is taken."""
        task = manifest(
            request,
            run=run,
            timeout_seconds=self._limits.timeout_seconds,
            max_attempts=self._limits.max_attempts,
            answered=None if answered is None else str(answered),
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

    async def _withdraw(self, tasks: TaskStore, withdrawal: Withdrawal) -> Cancel | Keep:
        for _ in range(_RACES):
            runs = await _runs(tasks, withdrawal.item)
            if not runs:
                return Keep("the item has no task")
            active = [run for run in runs if works(run)]
            if withdrawal.cause is WithdrawalCause.COMMAND:
                if not active:
                    over = runs[-1].over
                    return Keep(
                        "the item's task has ended" if over else "the task is already being cancelled"
                    )
                patch = cancellation(withdrawal.reason, withdrawal.cause)
                if all([await tasks.patch(task, patch) for task in active]):
                    return Cancel(active[-1].name)
            elif runs[-1].reported and not active:
                return Keep("the item's task has ended")
            elif await tasks.patch(runs[-1], rescan_item(runs[-1], self._now(), withdrawal.at)):
                return Keep("the reporter reads the item, and cancels the task if nobody wants it")
        raise _too_quick(withdrawal.item)

    async def _command(self, tasks: TaskStore, command: IssueCommand) -> CommandStored | CommandIgnored:
        for _ in range(_RACES):
            runs = await _runs(tasks, command.item)
            if not runs:
                return CommandIgnored("the item has no task; apply the label to start one")
            # A run remembers the command that started it, so a delivery that comes again starts no other.
            if any(_is_of_same_act(run, command.request(None)) for run in runs):
                return CommandIgnored("it has already been executed")
            patch = store(runs[-1], command)
            if isinstance(patch, CommandIgnored):
                return patch
            if await tasks.patch(runs[-1], patch):
                return CommandStored(runs[-1].name)
        raise _too_quick(command.item)

    async def _look(self, tasks: TaskStore, items: Sequence[Item], author: str) -> str | None:
        for item in items:
            for _ in range(_RACES):
                runs = await _runs(tasks, item)
                if not runs:
                    break
                # The reporter watches tasks, so an annotation on the newest one reaches it without another
                # channel.
                if await tasks.patch(runs[-1], rescan_change(runs[-1], self._now(), items, author)):
                    return runs[-1].name
            else:
                raise _too_quick(item)
        return None

    async def _bounded(self, operation: Callable[[TaskStore], Awaitable[_T]]) -> _T:
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

    async def _connected(self) -> TaskStore:
        async with self._connecting:
            if self._tasks is None:
                self._tasks = await self._connect()
            return self._tasks

    async def _renew(self) -> None:
        if self._tasks is not None:
            await self._tasks.renew()


class KubernetesSink(StoreSink):
    """The task sink on the API server.

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
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        async def connect() -> TaskStore:
            server = await ApiServer.connect(access, REQUEST_TIMEOUT, role=ROLE)
            tasks = AgentTasks(server, namespace or server.namespace or "default", MANAGER, fence=fence)
            _logger.info("Tasks are AgentTasks in namespace %s", tasks.namespace)
            return tasks

        super().__init__(connect, limits, total_timeout=total_timeout, now=now)


def _own(runs: Sequence[AgentTask], request: TaskRequest, unanswered: Collection[str]) -> AgentTask | None:
    """Return the task that a request of ours created although its response was lost; it has our trigger."""
    lost = (task for task in runs if task.name in unanswered)
    return next((task for task in lost if task.spec.trigger == request.trigger), None)


def _is_of_same_act(run: AgentTask, request: TaskRequest) -> bool:
    """Whether a run was created for the act that a request names: the same cause with the same delivery id.

    The receiver's account may choose a delivery id, but for the cause `label` only.
    """
    trigger, wanted = run.spec.trigger, request.trigger
    has_id = wanted.delivery_id is not None and trigger.delivery_id == wanted.delivery_id
    return has_id and trigger.cause is wanted.cause


def _is_asked(task: AgentTask) -> bool:
    """Whether the reporter was asked to read the task's item and has not done so yet."""
    rescan = stored_rescan(task)
    return rescan is not None and rescan.labels


def _too_quick(item: Item) -> QueueUnavailableError:
    return QueueUnavailableError(f"The tasks of {item.display} change too quickly to decide on one.")


async def _as_trusted_as_its_issue(tasks: TaskStore, request: TaskRequest) -> TaskRequest:
    """Return the request, marked as trusted if its change is our work for an issue with trusted tasks.

    An issue without stored tasks is not trusted.
    """
    if request.trusted or request.answers is None:
        return request
    runs = await _runs(tasks, request.answers)
    # One stranger's text among the runs is enough to distrust the work that followed.
    trusted = bool(runs) and all(task.spec.trusted for task in runs)
    return request.model_copy(update={"trusted": trusted})


async def _runs(tasks: TaskStore, item: Item) -> list[AgentTask]:
    """Return the item's runs; the newest is last."""
    return runs_of(item, await _stored(tasks, item, ()))


async def _stored(tasks: TaskStore, item: Item, taken: Collection[str]) -> list[AgentTask]:
    """Return the tasks with the item's label, and the tasks whose names were taken.

    The item's runs are among them. A task whose name was taken is not listed if somebody removed its labels,
    or if it belongs to another item.
    """
    try:
        listed = list(await tasks.runs(item))
    except ApiError as error:
        if not error.uncached:
            raise
        # The API server refuses lists for seconds after a change of the CRD, but single reads work. Any run
        # can keep a request to the reporter, which lists them again.
        first = await tasks.get(task_name(item))
        if first is None or not runs_of(item, [first]):
            raise
        listed = [first]
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
