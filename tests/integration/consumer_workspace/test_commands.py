"""Commands: bounded in time and output, and nothing that they started outlives them."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import launch
from coding_agent_consumer.workspace.framing import END_SECONDS, Seed
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.processes import living_parents
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError
from coding_agent_consumer.workspace.workspace_client import WorkspaceClient
from coding_agent_core.settings.attempt_settings import Isolation, WorkspaceSettings
from coding_agent_testbed.until import until_async

LIMIT = 2000
PATIENCE = END_SECONDS + 60
"""Seconds for what is to happen at once, on a machine as busy as the ending of processes allows for."""


both = pytest.mark.parametrize("workspace", [Isolation.NAMESPACES, Isolation.NONE], indirect=True)


@pytest.fixture
async def workspace(
    request: pytest.FixtureRequest, base_dir: Path, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workspace]:
    monkeypatch.setattr(launch, "OUTPUT_LIMIT", LIMIT)
    settings = WorkspaceSettings(isolation=getattr(request, "param", Isolation.NONE), command_timeout=120)
    async with launch_workspace(settings, base_dir=base_dir) as client:
        await client.seed(seed)
        yield client


def alive(mark: str) -> list[int]:
    found = []
    for pid in living_parents():
        try:
            if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


async def gone(mark: str) -> None:
    await until_async(f"the end of {mark}", lambda: not alive(mark), timeout=PATIENCE)


async def runs(mark: str) -> None:
    await until_async(f"{mark} runs", lambda: alive(mark), timeout=PATIENCE)


async def test_exit_codes_and_output_are_the_shells(workspace: Workspace) -> None:
    for command, code in (("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("no-such-program", 127)):
        result = await workspace.run(command)
        assert (result.exit_code, result.timed_out) == (code, False)
    result = await workspace.run("echo one; echo two >&2; ls; head -c 5000 /dev/urandom; printf '\\xe2\\x82'")
    assert result.output.startswith("one\ntwo\ncalc.py\n")
    assert result.output.endswith("\ufffd")


@both
async def test_a_command_out_of_time_is_ended_with_its_daemons(workspace: Workspace) -> None:
    mark = f"98761.{os.getpid()}"
    result = await workspace.run(
        f"(setsid sh -c '(setsid sleep {mark} </dev/null >/dev/null 2>&1 &)' &); sleep {mark}; echo no",
        timeout=0.3,  # meant to expire
    )
    assert (result.exit_code, result.timed_out) == (None, True)
    assert result.output == ""
    assert alive(mark) == []


@both
async def test_a_daemon_does_not_outlive_its_command(workspace: Workspace) -> None:
    mark = f"98762.{os.getpid()}"
    result = await workspace.run(
        f"(setsid sleep {mark} &) ; (setsid nohup sleep {mark} >/dev/null 2>&1 &); echo ok"
    )
    assert result.exit_code == 0
    assert "ok" in result.output
    assert alive(mark) == []


async def test_a_command_that_ignores_signals_is_ended(workspace: Workspace) -> None:
    stubborn = "trap '' TERM INT HUP; while :; do sleep 0.05; done"
    result = await workspace.run(stubborn, timeout=0.3)  # meant to expire
    assert result.timed_out


@pytest.mark.long
async def test_a_flood_of_output_keeps_its_head_and_tail_in_little_memory(workspace: Workspace) -> None:
    result = await workspace.run(
        "echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo; echo last;"
        " grep -h VmHWM /proc/$PPID/status || true"
    )
    assert result.truncated
    assert result.output.startswith("first\n")
    assert "\nlast\n" in result.output
    assert len(result.output) < LIMIT + 200
    peak = int(result.output.split("VmHWM:")[1].split()[0])
    assert peak < 60_000, "kB of the serving process"


@both
async def test_a_command_reads_nothing_and_inherits_nothing(workspace: Workspace) -> None:
    result = await workspace.run(
        "cat; ls /proc/self/fd | wc -l; env | cut -d= -f1 | sort | tr '\\n' ' '; echo; ulimit -c; ulimit -u;"
        "id -u"
    )
    lines = result.output.splitlines()
    assert lines[0] == "4", "three, and the listing's own"
    expected = "HOME LANG LOGNAME PAGER PATH PWD SHELL SHLVL TERM TMPDIR USER _"
    assert [name for name in lines[1].split() if not name.startswith("GIT_")] == expected.split()
    assert lines[2] == "0", "no core dumps"
    assert lines[4] == "0" or int(lines[3]) <= 4096
    assert resource.getrlimit(resource.RLIMIT_NPROC)[0] != 4096, "ours is as it was"


@both
async def test_a_storm_of_forks_is_bounded_and_ended(workspace: Workspace) -> None:
    mark = f"98763.{os.getpid()}"
    crowd = f"for i in $(seq 60); do (setsid sleep {mark} >/dev/null 2>&1 &) ; done"
    script = f"ulimit -u 200; {crowd}; f() {{ f & f & }}; echo started; sleep 0.2; f"
    # A busy machine may take longer than the first of these for the 60, before the storm itself.
    for timeout in (2, 8, 32):
        result = await workspace.run(script, timeout=timeout)
        assert alive(mark) == []
        if "started" in result.output:
            break
    assert "started" in result.output
    assert (await workspace.run("echo still here")).output == "still here\n"


@both
async def test_hanging_up_ends_the_command(workspace: Workspace) -> None:
    mark = f"98764.{os.getpid()}"
    running = asyncio.create_task(workspace.run(f"sleep {mark}"))
    await runs(mark)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(mark)
    assert (await workspace.run("echo on")).output == "on\n"


async def test_a_folder_too_long_for_a_socket_is_named_with_the_setting(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(WorkspaceGoneError, match=r"too long.*TMPDIR"):
        async with launch_workspace(WorkspaceSettings(), base_dir=deep):
            pass
    assert list(deep.iterdir()) == []


async def test_the_end_of_the_workspace_ends_a_running_command(base_dir: Path) -> None:
    mark = f"98765.{os.getpid()}"
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        running = asyncio.create_task(client.run(f"sleep {mark}"))
        await runs(mark)
    with pytest.raises(WorkspaceGoneError):
        await running
    assert alive(mark) == []


async def test_in_namespaces_a_command_cannot_end_the_server(base_dir: Path) -> None:
    async with launch_workspace(
        WorkspaceSettings(isolation=Isolation.NAMESPACES), base_dir=base_dir
    ) as client:
        await client.run("kill -9 1; kill -9 -1; kill -STOP 1; kill -TERM 1")
        assert (await client.run("echo alive")).output == "alive\n"


async def test_an_invalid_answer_is_gone_not_silent(tmp_path: Path) -> None:
    def lie(listener: socket.socket) -> None:
        session, _ = listener.accept()
        with session:
            _, descriptors, _, _ = socket.recv_fds(session, 1, 1)
            with socket.socket(fileno=descriptors[0]) as connection:
                # What is left unread at the end would reset the connection, and the answer with it.
                size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL))
                header = json.loads(connection.recv(size, socket.MSG_WAITALL))
                connection.recv(header["body"], socket.MSG_WAITALL)
                connection.sendall(b"\xff\xff\xff\xffgarbage")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        lying = asyncio.create_task(asyncio.to_thread(lie, listener))
        client = WorkspaceClient(tmp_path / "socket", command_timeout=60, output_limit=1000)
        with contextlib.closing(client), pytest.raises(WorkspaceGoneError, match="invalid answer"):
            await client.run("echo x")
        await lying


SCRIPT = """
import os, signal, subprocess, sys
from coding_agent_consumer.workspace import linux, processes

linux.adopt_orphans()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
child = subprocess.Popen(["sleep", "4711"])
print(child.pid, flush=True)
kill = os.kill

def stopped_at_the_worst_moment(pid, number):
    kill(pid, number)
    if number == signal.SIGSTOP:
        kill(os.getpid(), signal.SIGTERM)

os.kill = stopped_at_the_worst_moment
processes.end_descendants()
"""


def test_a_signal_to_us_does_not_leave_behind_who_was_only_stopped_yet() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        child, _ = program.communicate(timeout=60)
        assert program.returncode == 3
        assert not Path("/proc", child.strip()).exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
