"""Opens a workspace for one attempt: that of a container, or a new one as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import pwd
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from coding_agent_core.settings.attempt_settings import WorkspaceSettings

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.files import SYSTEM, python_installation, remove
from coding_agent_consumer.workspace.framing import END_SECONDS, GATE, WORKSPACE
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError
from coding_agent_consumer.workspace.workspace_client import WorkspaceClient

_logger = logging.getLogger("coding_agent.workspace")
_START_SECONDS = 60.0
START_S = 120.0
"""A workspace's container must first answer within this time. On Kubernetes it starts before the agent's, so
only its program is waited for; with Docker Compose, the task before it."""
OUTPUT_LIMIT = 20_000
"""Characters of one command's output that the model sees, from its start and end: about 5,000 tokens, so that
several outputs fit into a context of 32,000. The whole output is in a file if the command writes one."""
_RESTART_SECONDS = 360.0
"""A container must have restarted within this time. The kubelet's back-off grows to 300 s, its next check is
up to 15 s later, and the container needs time to start."""
_POLL_SECONDS = 0.2
_MAX_GATE_ANSWER = 8192
"""The longest answer of the gate, in bytes."""
_STOP_SECONDS = END_SECONDS + 20.0
"""The workspace must have ended all its processes and removed their files within this time."""
_UIDS = range(61184, 65520)
"""User ids that systemd reserves for dynamic services (see its UIDS-GIDS): no person or package has one."""
_NOBODY = 65534
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from coding_agent_consumer.workspace.__main__ import main; sys.exit(main())"
)
_SOCKET_PATH = 107
"""The longest path of a Unix socket, in bytes (unix(7): `sun_path` has 108, and the last one is NUL)."""
_turns: dict[Path, asyncio.Lock] = {}
"""Locks by the gate's folder; the task that uses the gate holds its lock."""
_next = itertools.count(os.getpid())


def harden_agent_process() -> None:
    """Forbid core dumps, and reading this process's memory and environment; call this first.

    This protects the agent from a workspace without namespaces: the kernel then refuses ptrace and
    `/proc/PID/{environ,mem,fd,maps}` to the same user, but not to root (PR_SET_DUMPABLE in prctl(2)).
    """
    linux.forbid_inspection()


@contextlib.asynccontextmanager
async def launch_workspace(
    settings: WorkspaceSettings,
    *,
    hidden: Iterable[Path] = (),
    readable: Iterable[Path] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    base_dir: Path | None = None,
) -> AsyncIterator[Workspace]:
    """Open the workspace behind `settings.socket` or `settings.gate`, or one in a new child process.

    The socket belongs to a sidecar of this attempt, the gate to a container that serves task after task.

    Args:
        hidden: the agent's files and folders (configuration, state), in addition to its home and working
            folder; commands never see them, even below `/etc` or `/opt`.
        readable: toolchains outside the system's folders that commands can read.
        environment: variables for the commands. A sidecar does not get them, because it has its own.
        base_dir: the folder for the workspace's own one; `None`: the system's temporary folder.

    Raises:
        WorkspaceGoneError: the workspace cannot be started with the isolation that the settings require.

    example:
        async with launch_workspace(settings.consumer.workspace) as workspace:
            await workspace.seed(repository.seed())
            print((await workspace.run("make test")).output)
    """
    if settings.socket is not None:
        with contextlib.closing(await connect_sidecar(settings, settings.socket)) as workspace:
            yield workspace
        return
    if settings.gate is not None:
        async with _enter_gate(settings, settings.gate, environment) as workspace:
            yield workspace
        return
    instance = await asyncio.to_thread(_make_instance, base_dir)
    try:
        if len(os.fsencode(instance / "socket")) > _SOCKET_PATH:
            raise WorkspaceGoneError(
                f"The workspace's folder {instance} is too long for a Unix socket: set "
                "TMPDIR to a shorter path."
            )
        arguments = _arguments(instance, settings, [*_agent_folders(), *hidden], readable)
        arguments += [word for name in environment for word in ("--keep-env", name)]
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath), **environment},
            cwd="/",
            start_new_session=True,
        )
        try:
            await _started(process)
            client = WorkspaceClient(
                instance / "socket",
                command_timeout=settings.command_timeout,
                output_limit=OUTPUT_LIMIT,
            )
            with contextlib.closing(client):
                await client.connect(_START_SECONDS)
                yield client
        finally:
            await _end(process)
    finally:
        await asyncio.to_thread(remove, instance)


async def connect_sidecar(
    settings: WorkspaceSettings, path: Path, *, restarts: asyncio.StreamReader | None = None
) -> WorkspaceClient:
    """Connect to a workspace whose container is restarted when it stops.

    Args:
        restarts: gets a line each time that the program is started again, from a process that no command can
            end; `None`: the end of the session shows that all commands have ended too.

    Raises:
        WorkspaceGoneError: the workspace does not answer within `START_S`.
    """
    client = WorkspaceClient(
        path,
        command_timeout=settings.command_timeout,
        output_limit=OUTPUT_LIMIT,
        restart_patience=_RESTART_SECONDS,
        restarts=restarts,
    )
    await client.connect(START_S)
    return client


def _make_instance(base: Path | None) -> Path:
    instance = Path(os.path.realpath(tempfile.mkdtemp(prefix="coding-agent-workspace-", dir=base)))
    # The workspace's user can pass through to its root, but cannot list or change this folder.
    instance.chmod(0o711)
    return instance


def _arguments(
    instance: Path, settings: WorkspaceSettings, hidden: Iterable[Path], readable: Iterable[Path]
) -> list[str]:
    source = str(Path(__file__).resolve().parents[2])
    # -I -S leave out PYTHON* variables and site-packages; the program needs only the standard library.
    arguments = [sys.executable, "-I", "-S", "-c", _START, source]
    arguments += ["--socket", str(instance / "socket"), "--root", str(instance / "root"), "--lifeline"]
    arguments += ["--remove", str(instance), "--isolation", settings.isolation.value]
    arguments += ["--command-timeout", str(settings.command_timeout)]
    arguments += ["--output-limit", str(OUTPUT_LIMIT)]
    for path in [*python_installation(), *readable]:
        arguments += ["--readable", str(path)]
    for path in hidden:
        arguments += ["--hide", str(path.absolute())]
    # Commands use this process's toolchains as far as they can see them; Python's own folders come first.
    python = [str(path / "bin") for path in python_installation()]
    for folder in [*python, *os.environ.get("PATH", os.defpath).split(":")]:
        arguments += ["--path", folder]
    if os.geteuid() == 0:
        arguments += ["--uid", str(_unprivileged_uid())]
    return arguments


def _agent_folders() -> list[Path]:
    """Return the agent's home and working folder, unless they are system folders."""
    system = {Path("/"), *(Path("/", name) for name in SYSTEM)}
    folders = [Path.cwd().resolve()]
    with contextlib.suppress(RuntimeError):
        folders.append(Path.home().resolve())
    return [folder for folder in folders if folder not in system]


def _unprivileged_uid() -> int:
    """Return an unused user id, a different one for each workspace; `nobody` if the id is not mapped."""
    for _ in range(20):
        uid = _UIDS[next(_next) % len(_UIDS)]
        if not id_is_mapped(Path("/proc/self/uid_map").read_text(encoding="ascii"), uid):
            return _NOBODY
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return _NOBODY


def id_is_mapped(uid_map: str, uid: int) -> bool:
    """Whether a user namespace with this map (user_namespaces(7)) has the id."""
    for line in uid_map.splitlines():
        first, _, count = (int(field) for field in line.split())
        if first <= uid < first + count:
            return True
    return False


async def _started(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None  # noqa: S101 - requested at start
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise WorkspaceGoneError(f"The workspace did not start within {_START_SECONDS:.0f} s.") from error
    answer = json.loads(line) if line else {"failed": "its program ended at once"}
    if "failed" in answer:
        raise WorkspaceGoneError(f"The workspace cannot be started: {answer['failed']}.")
    if answer["warning"]:
        _logger.warning(
            "WEAK ISOLATION: %s. The model's commands have only a scrubbed environment and run as %s; "
            "they can read what it can. Allow user namespaces, or run the workspace in its own container.",
            answer["warning"],
            "an unprivileged user" if os.geteuid() == 0 else "the agent's own user",
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the program's standard input, so that it ends with all its processes; kill it if it does not."""
    assert process.stdin is not None  # noqa: S101 - requested at start
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if isinstance(error, asyncio.CancelledError):
            raise
    await process.wait()


@contextlib.asynccontextmanager
async def _enter_gate(
    settings: WorkspaceSettings, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Workspace]:
    """Open an empty workspace behind the gate in `folder`; it is emptied at the end of the block."""
    # One task at a time: while it has the workspace, its commands can put another socket in the gate's place.
    turn = _turns.setdefault(folder, asyncio.Lock())
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(START_S):
                await stack.enter_async_context(turn)
            async with asyncio.timeout(START_S):
                reader, writer, answer = await _connect_to_gate(folder / GATE, environment)
        except TimeoutError as error:
            raise WorkspaceGoneError(
                f"No workspace behind {folder / GATE} within {START_S:.0f} s: its container "
                "is not running, or it is serving another task."
            ) from error
        stack.push_async_callback(_leave_gate, reader, writer)
        if "failed" in answer:
            raise WorkspaceGoneError(f"The workspace cannot be started: {str(answer['failed'])[:500]}.")
        client = await connect_sidecar(settings, folder / WORKSPACE, restarts=reader)
        yield stack.enter_context(contextlib.closing(client))


async def _leave_gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the gate end the task, and wait until it has.

    Until then, a process of the task could put a socket of its own in the gate's place, and the next task
    would connect to it. The gate closes the connection after it has killed all processes.
    """
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            writer.write_eof()
            while await reader.read(_MAX_GATE_ANSWER):
                pass
    except (OSError, TimeoutError) as error:
        _logger.warning("The workspace's container did not say that the task's processes ended: %r", error)
    finally:
        writer.close()


async def _connect_to_gate(
    gate: Path, environment: Mapping[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, object]]:
    """Connect to a gate, and retry while its container starts or another task has it."""
    while True:
        with contextlib.suppress(
            OSError, ValueError, RecursionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            reader, writer = await asyncio.open_unix_connection(gate, limit=_MAX_GATE_ANSWER)
            try:
                writer.write(json.dumps(dict(environment)).encode() + b"\n")
                answer = json.loads(await reader.readuntil(b"\n"))
            except BaseException:
                writer.close()
                raise
            if isinstance(answer, dict):
                return reader, writer, answer
            writer.close()
        await asyncio.sleep(_POLL_SECONDS)
