"""The two programs: a consumer of a queue, and the single attempt of a Job's pod (`--mode attempt`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from coding_agent_core.errors import ForgeNotFoundError, SettingsError
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.reporting.comment import State
from coding_agent_core.runtime.retry import both
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.job_settings import MIRROR_VARIABLE
from coding_agent_core.settings.load import examine
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput, Outcome
from coding_agent_core.task.item_history import Position
from coding_agent_core.task.model import Item, Phase
from coding_agent_core.task.runners import RunnerName
from coding_agent_forges.connect import connect_all, connect_forge, forge_of
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.agent.model_spec import model_spec
from coding_agent_consumer.agent_interface import Agent
from coding_agent_consumer.attempt.agent_work import MakeAgent
from coding_agent_consumer.attempt.attempt import Attempt, LoadedItem
from coding_agent_consumer.attempt.failures import outcome_of_error
from coding_agent_consumer.item.forge_tasks import ForgeTask, branch_for, remembered
from coding_agent_consumer.item.run_check import RunCheck
from coding_agent_consumer.transcripts.transcript import scrub_for, scrub_logs
from coding_agent_consumer.workspace.egress import Identities, denials
from coding_agent_consumer.workspace.launch import harden_agent_process

if TYPE_CHECKING:
    from coding_agent_core.queues.interfaces import TaskSource
    from prometheus_client import CollectorRegistry

    from coding_agent_consumer.gateway.forwarding import Gateway
    from coding_agent_consumer.repository.mirror import Mirror

_logger = logging.getLogger("coding_agent.consumer")
_TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's termination message; `TERMINATION_LOG` names another file."""


def make_agent(settings: Settings, gateway: Gateway) -> Agent:
    """Return the agent that the settings name.

    Raises:
        SettingsError: the model's provider does not speak the agent's format, or the agent has no command.
    """
    name = settings.consumer.runner
    if name is RunnerName.BUILTIN:
        # Pydantic AI's import is a third of an attempt's CPU time, and the other agents do without it.
        from coding_agent_consumer.agent.loop import ModelAgent  # noqa: PLC0415

        return ModelAgent(settings, gateway)
    from coding_agent_consumer.runners.agent import CliAgent, runner_of  # noqa: PLC0415

    return CliAgent(runner_of(name, settings), settings, gateway)


def import_agent(settings: Settings, runner: RunnerName) -> None:
    """Import the gateway, and for the built-in agent also its library and that of its model's service.

    No garbage is collected meanwhile.
    """
    gc.disable()
    try:
        from coding_agent_consumer.gateway import gateway_server  # noqa: F401, PLC0415 - beside the clone

        if runner is RunnerName.BUILTIN:
            from coding_agent_consumer.agent.loop import ModelAgent  # noqa: F401, PLC0415 - as in `make_agent`
            from coding_agent_consumer.agent.models import import_library  # noqa: PLC0415

            with contextlib.suppress(SettingsError):  # a person's own settings may name another service
                import_library(model_spec(settings).api)
    finally:
        gc.freeze()
        gc.enable()


async def run_consumer(
    settings: Settings, source: TaskSource, stop: asyncio.Event, registry: CollectorRegistry
) -> None:
    """Work on tasks until `stop` is set, or the source is empty.

    Args:
        registry: receives the metrics.

    Raises:
        SettingsError: no forge has a token, or the model is not configured.
    """
    # An attempt, which is the other program here, does without these.
    from coding_agent_core.runtime.usage_metrics import UsageMetrics  # noqa: PLC0415

    from coding_agent_consumer.queue.task_handler import TaskHandler, consume  # noqa: PLC0415

    harden_agent_process()
    scrub_logs(scrub_for(settings, os.environ))
    check_model(settings)
    identities = Identities.of(settings)
    if identities is not None:
        # This comes before the clients are made, because they find the proxy here.
        os.environ.update(identities.agent("consumer"))
        if settings.consumer.workspace.gate is None:
            _logger.warning(
                "The model's commands share this machine's network: they have the egress proxy in their"
                " environment, and nothing stops a command that bypasses it. Docker Compose and "
                "Kubernetes do."
            )
    async with AsyncExitStack() as stack:
        forges = connect_all(settings)
        for forge in forges.values():
            stack.push_async_callback(forge.aclose)
        handler = TaskHandler(
            settings=settings,
            forges=forges,
            make_agent=make_agent,
            shutdown=stop,
            usage=UsageMetrics(registry),
            identities=identities,
        )
        _logger.info("Ready for tasks of %s", ", ".join(sorted(forges)))
        await consume(source, handler, concurrency=settings.consumer.concurrency)


def run_attempt(config: Path | None, environment: Mapping[str, str] | None = None) -> int:
    """Run the attempt that the environment names, and write its outcome as the termination message.

    Args:
        config: the settings file; `None` for the file that `load_settings` finds.
        environment: the environment variables; `None`: the process's own.

    Returns:
        the exit status, a `coding_agent_core.task.reasons.ExitCode`.
    """
    harden_agent_process()
    environment = os.environ if environment is None else environment
    scrub: Callable[[str], str] = str  # before the settings are read, no secret is known
    try:
        findings = examine(config, environment)
        settings = findings.require()
        configure(settings.logging)
        findings.log()
        scrub = scrub_for(settings, environment)
        scrub_logs(scrub)
        given = _read_input(environment)
        outcome = asyncio.run(_attempt(settings, given, lambda so_far: _write_outcome(so_far, environment)))
    except Exception as error:
        outcome = outcome_of_error(error, scrub)
    log = _logger.error if outcome.outcome_class.counted and not outcome.succeeded else _logger.info
    log("%s: %s", outcome.reason, outcome.message)
    _write_outcome(outcome, environment)
    return outcome.exit_code.value


def _write_outcome(outcome: Outcome, environment: Mapping[str, str]) -> None:
    """Write the outcome as the termination message."""
    file = Path(environment.get("TERMINATION_LOG", _TERMINATION_LOG))
    if file.exists():  # in a pod
        try:
            file.write_text(outcome.to_termination_message(), encoding="utf-8")
        except (OSError, ValueError) as error:
            _logger.error("Cannot write the termination message: %s", error)  # noqa: TRY400 - no traceback


def _read_input(environment: Mapping[str, str]) -> AttemptInput:
    name = ENVIRONMENT_VARIABLE
    text = environment.get(name, "")
    if not text:
        raise SettingsError(f"{name} is not set: the operator sets it to the attempt's task")
    try:
        return AttemptInput.from_json(text, now=datetime.now(UTC))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error


async def _attempt(
    settings: Settings, attempt_input: AttemptInput, record: Callable[[Outcome], None]
) -> Outcome:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    check_model(settings)
    item = attempt_input.task.request.item
    # In a pod, the workspace is another container, and both have their identities for the egress proxy.
    pod = settings.consumer.workspace.socket is not None
    identities = None if pod else Identities.of(settings)
    job = f"{attempt_input.task.name}-{attempt_input.task.attempt}"
    if identities is not None:
        # This comes before the clients are made, because they find the proxy here.
        os.environ.update(identities.agent(job))
    runner = attempt_input.task.request.runner or settings.consumer.runner
    imports = threading.Thread(target=import_agent, args=(settings, runner), daemon=True)

    def item_read() -> None:
        # The imports take most of a second, in which the repository is cloned. They begin only now, because
        # this thread has imported what requests need: two threads should not import the same at once.
        if imports.ident is None:
            imports.start()

    # Only the item's own forge is connected: there may be no credentials for another.
    forge = connect_forge(settings, item.platform, only=item.repository)
    try:
        forge_of({forge.host: forge}, item)
        grace = settings.operator.job.grace_seconds
        folder = os.environ.get(MIRROR_VARIABLE)
        mirror = None
        if folder:
            from coding_agent_consumer.repository.mirror import Mirror  # noqa: PLC0415 - only with a cache

            mirror = Mirror(Path(folder))
        check = RunCheck(forge, item, attempt_input)
        attempt = build_attempt(
            settings,
            attempt_input,
            forge,
            stop,
            grace=grace,
            record=record,
            mirror=mirror,
            item_read=item_read,
            check=check,
            pod=pod,
            variables=identities.workspace(job, item) if identities is not None else {},
        )
        outcome = await attempt.run()
        # An outcome that says what it answers is that of a withdrawn run.
        if outcome.answered is None and not attempt.hurried:
            outcome = await check.at_end(outcome)
        denied = await denials(os.environ, hurry=attempt.hurried)
        return outcome.model_copy(update={"denied": denied})
    finally:
        await forge.aclose()


def build_attempt(
    settings: Settings,
    attempt_input: AttemptInput,
    forge: Forge,
    stop: asyncio.Event,
    *,
    grace: float,
    make_agent: MakeAgent = make_agent,
    record: Callable[[Outcome], None] | None = None,
    mirror: Mirror | None = None,
    item_read: Callable[[], None] = lambda: None,
    check: RunCheck | None = None,
    pod: bool = True,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Attempt:
    """Return the attempt of a Job's pod, or of a process on one machine.

    Args:
        forge: the forge of the item's host.
        stop: set by SIGTERM.
        grace: seconds between SIGTERM and SIGKILL.
        record: saves the outcome known so far, in case this process is killed.
        mirror: the mirror of the item's repository, if there is a cache.
        item_read: called whenever the item was read and is open.
        check: says whether people still want the run; `None` if the attempt does not ask.
        pod: whether the attempt has a pod.
        variables: further variables for the commands in the workspace.
    """
    base = settings.context_storage.base_dir
    queued = attempt_input.task
    if queued.request.trigger.round is not None:
        # Here, because a thread imports the agent later: two threads should not import the same at once.
        from coding_agent_consumer.rounds import work  # noqa: F401, PLC0415

    async def load() -> LoadedItem:
        item = await _located(forge, queued.request.item)
        # The account, which the forge's client keeps, is needed in any case.
        details, _ = await both(forge.read(item), forge.whoami())
        item = details.item  # the repository may have another name now
        if not details.open:
            if queued.request.trigger.round is not None:
                noun = FACTS[item.platform].change_noun
                raise ForgeNotFoundError(f"The {noun} was closed or merged before the round started.")
            raise ForgeNotFoundError("The item was closed before the attempt started.")
        item_read()
        branch, change = attempt_input.earlier.branch, attempt_input.earlier.change_url
        previous: State | None = None
        if branch is None or (check is not None and check.must_remember):
            previous = await remembered(forge, item)
        if check is not None:
            check.item = item
            check.remembered = Position.parse(previous.answered) if previous is not None else None
            await check()
        if branch is None:
            # This run is not known to have pushed anything, so an earlier run's branch counts while its
            # change is open. Each pod of this attempt gets the same answer, so it finds a lost pod's work.
            branch = await branch_for(
                forge,
                item,
                settings.consumer.branch_prefix,
                run=queued.run,
                previous=previous,
                continues=False,
            )
            change = previous.change_url if previous is not None and previous.branch == branch else None
        task = ForgeTask(
            forge,
            item,
            settings.labels(item.platform),
            State(
                uuid=queued.uuid,
                run=queued.run,
                attempt=queued.attempt,
                phase=Phase.RUNNING,
                branch=branch,
                change_url=change,
            ),
            max_attempts=attempt_input.max_attempts,
        )
        return LoadedItem(task, details, branch, check)

    return Attempt(
        settings=settings,
        given=attempt_input,
        load=load,
        # A relative folder is a scratch folder in a pod: the program's own folder is read-only in its image.
        transcript_folder=Path(tempfile.gettempdir()) / base if pod else base,
        make_agent=make_agent,
        stop=stop,
        grace=grace,
        overtime=grace,
        environment=attempt_input.environment if pod else None,
        variables=variables,
        record=record,
        mirror=mirror,
    )


async def _located(forge: Forge, item: Item) -> Item:
    """Return the item with its repository's path, as the forge now gives it.

    An AgentTask can name a project by path and by number. The credential and the image were chosen by
    the path, and requests use the number, so both must lead to the same project. The old path of a renamed
    project leads to it until another project takes that path.

    Raises:
        ForgeNotFoundError: they name two projects.
    """
    if not item.repository or item.project_id is None:
        return await forge.locate(item)
    located = await forge.locate(item.model_copy(update={"repository": ""}))
    if located.repository.lower() != item.repository.lower():
        named = await forge.locate(item.model_copy(update={"project_id": None}))
        if named.project_id != item.project_id:
            raise ForgeNotFoundError(
                f"Project {item.project_id} is {located.repository} and not {item.repository}, for which the"
                " task was created."
            )
    return located


def check_model(settings: Settings) -> None:
    """Check that the model can be used, to fail now and not in a task.

    With per-user settings nothing is checked, because each person may have a key of their own.
    """
    if not settings.user_config_api.enabled:
        model_spec(settings)
        chosen = {settings.consumer.runner, *settings.consumer.runners.values()}
        others = (chosen | set(settings.repository_environment.runners)) - {RunnerName.BUILTIN}
        if others:
            from coding_agent_consumer.runners.agent import runner_of  # noqa: PLC0415 - only CLI agents need it

            for name in others:
                runner_of(name, settings)
