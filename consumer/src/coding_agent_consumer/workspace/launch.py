"""A workspace for one attempt on this machine: the program started apart from us, and ended with us."""

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
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from coding_agent_core.settings.attempts import Workspace as WorkspaceSettings

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.client import WorkspaceClient
from coding_agent_consumer.workspace.place import remove
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError
from coding_agent_consumer.workspace.sandbox import python_installation
from coding_agent_consumer.workspace.sidecar import sidecar
from coding_agent_consumer.workspace.through_door import through_door
from coding_agent_consumer.workspace.view import SYSTEM

_logger = logging.getLogger("coding_agent.workspace")
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_UIDS = range(61184, 65520)
"""Ids that systemd keeps for passing services (its UIDS-GIDS document): no person or package has one."""
_NOBODY = 65534
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from coding_agent_consumer.workspace.__main__ import main; sys.exit(main())"
)
_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (unix(7): `sun_path` has 108, the last one for its end)."""
_next = itertools.count(os.getpid())


def harden_agent_process() -> None:
    """Forbid other processes of our user to read our memory and environment, and core dumps; call it first.

    What a workspace without namespaces has left: `/proc/PID/{environ,mem,fd,maps}` and ptrace are refused to
    the same user then, root excepted (PR_SET_DUMPABLE in prctl(2), proc(5)).
    """
    linux.forbid_inspection()


@contextlib.asynccontextmanager
async def launch_workspace(
    settings: WorkspaceSettings, *, hidden: Iterable[Path] = (), readable: Iterable[Path] = ()
) -> AsyncIterator[Workspace]:
    """A workspace to work in: the one behind `settings.socket` or `settings.door`, else a new one of our own.

    Args:
        settings: `consumer.workspace`.
        hidden: the agent's own files and folders (configuration, state), beside our home and working folder:
            never seen, even where they lie below `/etc` or `/opt`.
        readable: toolchains outside of the system's folders that commands may read.

    Raises:
        WorkspaceGoneError: it cannot be started, or not as isolated as the settings demand.
    """
    if settings.socket is not None:
        yield await sidecar(settings, settings.socket)
        return
    if settings.door is not None:
        async with through_door(settings, settings.door) as workspace:
            yield workspace
        return
    base = None if settings.base_dir is None else str(settings.base_dir)
    instance = await asyncio.to_thread(_make_instance, base)
    try:
        if len(os.fsencode(instance / "socket")) > _SOCKET_PATH:
            raise WorkspaceGoneError(
                f"The workspace's folder {instance} is too long for a Unix socket in it: set "
                "consumer.workspace.base_dir, or TMPDIR, to a shorter one."
            )
        arguments = _arguments(instance, settings, [*_own_places(), *hidden], readable)
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
            cwd="/",
            start_new_session=True,
        )
        try:
            await _started(process)
            client = WorkspaceClient(
                instance / "socket",
                command_timeout=settings.command_timeout,
                output_limit=settings.output_limit,
            )
            await client.ping()
            yield client
        finally:
            await _end(process)
    finally:
        await asyncio.to_thread(remove, instance)


def _make_instance(base: str | None) -> Path:
    instance = Path(os.path.realpath(tempfile.mkdtemp(prefix="coding-agent-workspace-", dir=base)))
    # The workspace's user may pass through, to the root which is its own, but not list or change it.
    instance.chmod(0o711)
    return instance


def _arguments(
    instance: Path, settings: WorkspaceSettings, hidden: Iterable[Path], readable: Iterable[Path]
) -> list[str]:
    source = str(Path(__file__).resolve().parents[2])
    # Isolated from PYTHON* variables and site-packages (-I -S): the program needs only the standard library.
    arguments = [sys.executable, "-I", "-S", "-c", _START, source]
    arguments += ["--socket", str(instance / "socket"), "--root", str(instance / "root"), "--lifeline"]
    arguments += ["--remove", str(instance)]
    arguments += ["--isolation", settings.isolation.value]
    arguments += [
        "--command-timeout",
        str(settings.command_timeout),
        "--output-limit",
        str(settings.output_limit),
    ]
    for path in [*python_installation(), *readable]:
        arguments += ["--readable", str(path)]
    for path in hidden:
        arguments += ["--hide", str(path.absolute())]
    # Ours, so that commands find the toolchains that we have, as far as they can be seen; Python's own first.
    python = [str(path / "bin") for path in python_installation()]
    for folder in [*python, *os.environ.get("PATH", os.defpath).split(":")]:
        arguments += ["--path", folder]
    if os.geteuid() == 0:
        arguments += ["--uid", str(_unprivileged_uid())]
    return arguments


def _own_places() -> list[Path]:
    """Our home and working folder, where they are not the system's own."""
    system = {Path("/"), *(Path("/", name) for name in SYSTEM)}
    places = [Path.cwd().resolve()]
    with contextlib.suppress(RuntimeError):
        places.append(Path.home().resolve())
    return [place for place in places if place not in system]


def _unprivileged_uid() -> int:
    """A user id that nobody has, another one for each workspace; `nobody` where only few ids are mapped."""
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
    """Whether a user namespace with such a map (user_namespaces(7)) has the id."""
    for line in uid_map.splitlines():
        first, _, count = (int(field) for field in line.split())
        if first <= uid < first + count:
            return True
    return False


async def _started(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None  # noqa: S101 - asked for
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise WorkspaceGoneError(f"The workspace did not start within {_START_SECONDS:.0f} s.") from error
    told = json.loads(line) if line else {"failed": "its program ended at once"}
    if "failed" in told:
        raise WorkspaceGoneError(f"The workspace cannot be started: {told['failed']}.")
    if told["warning"]:
        _logger.warning(
            "WEAK ISOLATION: %s. Commands of the model run with nothing but a scrubbed environment and %s; "
            "they can read what it can. Allow user namespaces, or give the workspace a container of its own.",
            told["warning"],
            "an unprivileged user" if os.geteuid() == 0 else "our own user",
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let it end itself with all that runs in it, by its lifeline; kill it if it does not."""
    assert process.stdin is not None  # noqa: S101 - asked for
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        _kill(process)
    except asyncio.CancelledError:
        _kill(process)
        raise
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
