"""The command line of all programs: `main.py [--config FILE] [--mode MODE]`.

An image holds one program, so a mode imports only what that program has.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

EX_CONFIG = 78
EX_TEMPORARY = 75
EX_STOPPED = 143


def _is_attempt() -> bool:
    return bool({"attempt", "--mode=attempt"} & set(sys.argv[1:]))


def _end_at_once(*_: object) -> None:
    """End the program on a SIGTERM that comes while it starts: no work has begun that it must finish.

    An attempt writes its `Outcome` as plain text, because importing that type takes seconds.
    """
    if _is_attempt():
        message = "The attempt was stopped before it began."
        try:
            file = os.open(
                os.environ.get("TERMINATION_LOG", "/dev/termination-log"), os.O_WRONLY | os.O_TRUNC
            )
            os.write(file, f'{{"version":1,"reason":"Cancelled","message":"{message}"}}'.encode())
        except OSError:
            pass  # not in a pod
    os._exit(EX_STOPPED)


if __name__ == "__main__":
    # This comes before the imports below, which take seconds: the kernel drops a SIGTERM for a container's
    # first process if it has no handler. The images start it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, _end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if _is_attempt():
        # Imports make objects that stay. Looking for garbage among them takes a third of their CPU time, and
        # an attempt's imports take longer than its own work. `_attempt` enables this again.
        gc.disable()
        # Google's client imports httpx, which imports its command line where click and rich are installed, as
        # they are for MCP servers. This takes 50 ms of CPU time, and nobody uses it here. An import of a
        # module that is None fails.
        sys.modules["httpx._main"] = None  # type: ignore[assignment]

import argparse
import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.platforms.registry import HOSTS
from coding_agent_core.runtime.retry import first_of
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.load import examine
from coding_agent_core.settings.model import Backend, Settings

if TYPE_CHECKING:
    from coding_agent_core.queues.interfaces import TaskSink, TaskSource
    from coding_agent_operator.one_machine.program import OneMachine
    from prometheus_client import CollectorRegistry

_SQLITE = (
    "queue.backend is `sqlite`: there one process does everything. Run `main.py` without `--mode` (or "
    "`--mode webhook`), or set use_rabbitmq: true to run two processes."
)

_CONSUMER = (
    "coding_agent_consumer.modes",
    "coding_agent_consumer.queue.task_handler",
    "coding_agent_consumer.agent.loop",
)
_PROGRAMS = {
    "consumer": _CONSUMER,
    "producer": ("coding_agent_receiver.poller",),
    "operator": ("coding_agent_operator.program",),
    "reporter": ("coding_agent_operator.reporter.reporter_program",),
    None: ("coding_agent_receiver.poller", *_CONSUMER),
}
"""For each mode, the modules whose import takes seconds. Until then, SIGTERM ends the program at once."""
_ONE_MACHINE = (
    "coding_agent_consumer.modes",
    "coding_agent_operator.one_machine.program",
    "coding_agent_receiver.poller",
    "coding_agent_receiver.server",
)

_CONSUMER_METRICS, _PRODUCER_METRICS = ("0.0.0.0", 8081), ("0.0.0.0", 8082)  # noqa: S104
"""Addresses of `/metrics`; Prometheus comes from outside of the container. A second process on the same
machine cannot have them: it logs a warning, and works without."""

_logger = logging.getLogger("coding_agent.main")


def main(argv: list[str] | None = None) -> int:
    """Run a mode and return the exit status: 0, 75 (try again later) or 78 (fix the configuration)."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    if "action" in arguments:
        return _tasks(arguments)
    if arguments.mode == "attempt":
        return _attempt(arguments.config)
    if arguments.mode in ("clone", "verify"):
        return _evidence(arguments.mode, arguments.config)
    if arguments.mode == "check":
        return _check(arguments.config)
    try:
        findings = examine(arguments.config)
        settings = findings.require()
        configure(settings.logging)
        findings.log()
        HOSTS.update({host: platform for platform, host in settings.hosts.items()})
        if arguments.mode == "webhook" and settings.backend is not Backend.SQLITE:
            from coding_agent_receiver.server import run

            run(settings, connect_sink(settings))
        else:
            asyncio.run(_run(arguments, settings))
    except SettingsError as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return EX_CONFIG
    except CodingAgentError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EX_TEMPORARY
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Label an issue, get a pull request.")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: $CONFIG_FILE, else config.yaml in the current folder)",
    )
    parser.add_argument(
        "--mode",
        choices=["webhook", *filter(None, _PROGRAMS), "attempt", "clone", "verify", "check"],
        help="webhook: receive webhooks; on one machine also run the tasks. "
        "consumer: run queued tasks. producer: poll the forge once (for cron). "
        "operator: create Jobs for AgentTasks on Kubernetes. "
        "reporter: show AgentTasks on their items with labels and a comment. "
        "attempt: run the attempt in CODING_AGENT_TASK, inside such a Job. "
        "clone, verify: verify the commit in CODING_AGENT_VERIFY, inside a Job without an agent. "
        "check: print all errors and warnings about the configuration, and start nothing. "
        "Without a mode: poll once, then run the tasks that were found.",
    )
    # Its imports take time, and the images do not have them.
    if {"tasks", "-h", "--help"} & set(argv) and find_spec("kubectl_agenttask"):
        from kubectl_agenttask.task_file import add_commands

        commands = parser.add_subparsers(dest="command", metavar="tasks")
        add_commands(commands.add_parser("tasks", help="show and change the tasks of this machine"))
    parser.add_argument(
        "--loop", action="store_true", help="with --mode producer: poll every scheduling.interval seconds"
    )
    return parser


def _tasks(arguments: argparse.Namespace) -> int:
    """Show or change tasks of this machine, also while another process works on them."""
    from coding_agent_core.settings.load import load_settings
    from coding_agent_core.task_file.tasks import file_of
    from kubectl_agenttask.tables import console
    from kubectl_agenttask.task_file import run

    try:
        run(file_of(load_settings(arguments.config)), arguments, console(sys.stdout))
    except SettingsError as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return EX_CONFIG
    except CodingAgentError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EX_TEMPORARY
    return 0


def _check(config: Path | None) -> int:
    """Print every setting that is wrong, has no effect or is missing. Nothing is started or connected."""
    findings = examine(config)
    warnings = list(findings.warnings)
    if findings.settings is not None:
        warnings += _missing(findings.settings)
    for error in findings.errors:
        print(f"error: {error}")
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{findings.source}: {len(findings.errors)} errors, {len(warnings)} warnings")
    return EX_CONFIG if findings.errors else 0


def _missing(settings: Settings) -> Iterator[str]:
    """Yield why parts of the program could not start here. Parts that this image lacks are left out."""
    checks: list[tuple[str, Callable[[Settings], None]]] = [
        ("webhooks", _check_webhooks),
        ("the poll", _check_scope),
        ("the poll", _check_token),
        ("attempts", _check_model),
        ("attempts", _check_tokens),
    ]
    for part, check in checks:
        try:
            check(settings)
        except SettingsError as error:
            yield f"{part} cannot start here: {error}"
        except ImportError:
            continue


def _check_webhooks(settings: Settings) -> None:
    from coding_agent_core.queues.rabbitmq import RabbitMQSink
    from coding_agent_receiver.server import create_app
    from prometheus_client import CollectorRegistry

    if settings.webhook.enabled:
        # It connects at its first call, and nothing is called here.
        create_app(settings, RabbitMQSink(settings.rabbitmq), registry=CollectorRegistry())


def _check_scope(settings: Settings) -> None:
    from coding_agent_receiver.poller import scope_problem

    problem = scope_problem(settings)
    if problem:
        raise SettingsError(problem)


def _check_token(settings: Settings) -> None:
    from coding_agent_forges.connect import connect_forge

    connect_forge(settings, settings.task_source)


def _check_model(settings: Settings) -> None:
    from coding_agent_consumer.modes import check_model

    check_model(settings)


def _check_tokens(settings: Settings) -> None:
    from coding_agent_forges.connect import connect_all

    connect_all(settings)


def _attempt(config: Path | None) -> int:
    from coding_agent_consumer.modes import run_attempt

    # The garbage collector skips what was imported, also when the program ends.
    gc.freeze()
    gc.enable()
    return run_attempt(config)


def _evidence(mode: str, config: Path | None) -> int:
    from coding_agent_consumer.verification.evidence import run_clone, run_verify

    return run_clone(config) if mode == "clone" else run_verify(config)


async def _run(arguments: argparse.Namespace, settings: Settings) -> None:
    one_machine = settings.backend is Backend.SQLITE and arguments.mode in ("webhook", None)
    for module in _ONE_MACHINE if one_machine else _PROGRAMS[arguments.mode]:
        importlib.import_module(module)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    match arguments.mode:
        case "webhook" | None if settings.backend is Backend.SQLITE:
            await _one_machine(arguments, settings, stop)
        case "consumer":
            await _consumer(settings, stop)
        case "producer":
            await _producer(settings, stop, loop_forever=arguments.loop)
        case "operator":
            from coding_agent_core.kubernetes.transport import Access
            from coding_agent_operator.program import run as run_operator

            Access.find()  # fails here if there is no cluster; kopf would retry forever
            await run_operator(settings, stop)
        case "reporter":
            from coding_agent_operator.reporter.reporter_program import run as run_reporter

            await run_reporter(settings, stop)
        case None:
            await _producer_then_consumer(settings, stop)


async def _one_machine(arguments: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> None:
    """Run receiver or poll, operator and reporter in one process, over the file of the tasks."""
    from coding_agent_consumer.modes import check_model
    from coding_agent_consumer.transcripts.transcript import scrub_for, scrub_logs
    from coding_agent_consumer.workspace.launch import harden_agent_process
    from coding_agent_operator.one_machine.program import OneMachine

    harden_agent_process()
    scrub_logs(scrub_for(settings, os.environ))
    check_model(settings)
    config = ["--config", str(arguments.config)] if arguments.config else []
    attempt = [sys.executable, __file__, "--mode", "attempt", *config]
    async with OneMachine.opened(settings, attempt) as machine, AsyncExitStack() as stack:
        # The parts that can fail come first: Python warns of each coroutine that was made and never awaited.
        if arguments.mode == "webhook":
            parts = await _intake(settings, machine.sink, stop, stack)
        else:
            parts = [_poll_and_finish(settings, machine, stop)]
        parts.append(machine.run(stop))
        _logger.info("Ready for tasks of %s", ", ".join(machine.hosts))
        await _together(parts, stop)


async def _intake(
    settings: Settings, sink: TaskSink, stop: asyncio.Event, stack: AsyncExitStack
) -> list[Coroutine[Any, Any, None]]:
    """Return the receiver, and the poller if the settings ask for one."""
    from coding_agent_core.runtime.metrics import REGISTRY
    from coding_agent_forges.connect import connect_forge
    from coding_agent_receiver.poller import Poller, scope_problem
    from coding_agent_receiver.receiver_metrics import PollMetrics
    from coding_agent_receiver.server import create_app, serve

    app = create_app(settings, sink, registry=REGISTRY)
    parts = [serve(settings, sink, stop=stop, app=app)]
    problem = scope_problem(settings)
    if not settings.scheduling.enabled:
        _logger.info("Webhooks only: scheduling.enabled is false")
    elif problem:
        _logger.warning("Webhooks only, no polling: %s", problem)
    else:
        forge = connect_forge(settings, settings.task_source)
        stack.push_async_callback(forge.aclose)
        parts.append(Poller(settings, forge, sink, PollMetrics(REGISTRY)).forever(stop))
    return parts


async def _poll_and_finish(settings: Settings, machine: OneMachine, stop: asyncio.Event) -> None:
    """Poll once, and return when all tasks have ended."""
    await _poll(settings, machine.sink, stop)
    await first_of(machine.done(), stop.wait())


def connect_sink(settings: Settings) -> TaskSink:
    """Return the queue to put tasks in. It connects at its first call.

    Raises:
        SettingsError: this program cannot use the backend.
    """
    match settings.backend:
        case Backend.SQLITE:
            raise SettingsError(_SQLITE)
        case Backend.RABBITMQ:
            from coding_agent_core.queues.rabbitmq import RabbitMQSink
            from coding_agent_core.queues.rabbitmq.messages import PUBLISH_S

            limit = settings.development.publish_timeout or PUBLISH_S
            return RabbitMQSink(settings.rabbitmq, publish_timeout=limit)
        case Backend.KUBERNETES:
            from coding_agent_core.kubernetes.task_sink import KubernetesSink
            from coding_agent_core.kubernetes.transport import Access

            namespace = settings.operator.namespace or os.environ.get("POD_NAMESPACE") or None
            limit = settings.development.webhook_timeout
            return KubernetesSink(Access.find(), namespace, settings.consumer, total_timeout=limit)


def connect_source(settings: Settings) -> TaskSource:
    """Return the queue to take tasks from; connections and errors are as for `connect_sink`."""
    match settings.backend:
        case Backend.SQLITE:
            raise SettingsError(_SQLITE)
        case Backend.RABBITMQ:
            from coding_agent_core.queues.rabbitmq import RabbitMQSource

            return RabbitMQSource(settings.rabbitmq, settings.hosts)
        case Backend.KUBERNETES:
            raise SettingsError(
                "queue.backend is `kubernetes`: there the operator starts a Job for each attempt, and no "
                "consumer takes tasks. Run `main.py --mode webhook` or `--mode producer` here, and the "
                "operator as well; or set queue.backend to `rabbitmq`."
            )


async def _together(parts: list[Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Run all parts until one of them returns or fails, then stop the others gracefully."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.wait(tasks)
    for task in tasks:
        task.result()


async def _consumer(settings: Settings, stop: asyncio.Event) -> None:
    from coding_agent_consumer.queue.notices import handle_notices
    from coding_agent_core.runtime.http_server import metrics_served
    from coding_agent_core.runtime.metrics import metrics_page, process_registry

    registry = process_registry()
    parts = [_work(settings, connect_source(settings), stop, registry)]
    sink: TaskSink | None = None
    if settings.backend is Backend.RABBITMQ:
        from coding_agent_core.queues.rabbitmq import RabbitMQNotices

        sink = connect_sink(settings)
        parts.append(handle_notices(settings, RabbitMQNotices(settings.rabbitmq), stop, sink=sink))
    try:
        page = metrics_page(registry)
        async with metrics_served(*_consumer_metrics(settings), page):
            await _together(parts, stop)
    finally:
        if sink is not None:
            await sink.aclose()


def _consumer_metrics(settings: Settings) -> tuple[str, int]:
    """Return the address of a consumer's metrics."""
    host, port = _CONSUMER_METRICS
    if settings.consumer.workspace.gate is not None:
        host = "127.0.0.1"  # the workspace's container, where the model's commands run, is in our network
    return settings.development.address((host, port))


async def _work(
    settings: Settings, source: TaskSource, stop: asyncio.Event, registry: CollectorRegistry
) -> None:
    from coding_agent_consumer.modes import run_consumer

    try:
        await run_consumer(settings, source, stop, registry)
    finally:
        await source.aclose()


async def _producer(settings: Settings, stop: asyncio.Event, *, loop_forever: bool) -> None:
    sink = connect_sink(settings)
    try:
        problem = await _poll(settings, sink, stop, loop_forever=loop_forever)
    finally:
        await sink.aclose()
    if problem:
        raise CodingAgentError(f"the poll is not complete: {problem}")


async def _poll(
    settings: Settings, sink: TaskSink, stop: asyncio.Event, *, loop_forever: bool = False
) -> str | None:
    """Poll once or forever. Return why a single poll is not complete, or `None` if it is."""
    from coding_agent_forges.connect import connect_forge
    from coding_agent_receiver.poller import Poller
    from coding_agent_receiver.receiver_metrics import PollMetrics

    _check_scope(settings)
    forge = connect_forge(settings, settings.task_source)
    try:
        if loop_forever:
            from coding_agent_core.runtime.http_server import metrics_served
            from coding_agent_core.runtime.metrics import metrics_page, process_registry

            registry = process_registry()
            page = metrics_page(registry)
            async with metrics_served(*settings.development.address(_PRODUCER_METRICS), page):
                await Poller(settings, forge, sink, PollMetrics(registry)).forever(stop)
            return None
        report = await Poller(settings, forge, sink).until(stop)
        return "it was stopped" if report is None else report.problem
    finally:
        await forge.aclose()


async def _producer_then_consumer(settings: Settings, stop: asyncio.Event) -> None:
    """Poll once, then take tasks from the broker."""
    await _producer(settings, stop, loop_forever=False)
    await _consumer(settings, stop)


if __name__ == "__main__":
    status = main()
    if _is_attempt():
        # The outcome is written and everything is closed. Without this, Python would free each object of its
        # own, which takes nearly a tenth of the attempt's CPU time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
