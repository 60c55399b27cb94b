"""A process whose output and input stream: bounded like a command, and the patch can be had meanwhile."""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import framing
from coding_agent_consumer.workspace.framing import Seed
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import (
    MAX_LINE,
    ProcessSpec,
    Workspace,
    WorkspaceGoneError,
    WorkspaceRequestError,
)
from coding_agent_core.settings.attempt_settings import Isolation, WorkspaceSettings

from tests.integration.consumer_workspace.test_commands import alive, both

PATIENCE = 60.0


@pytest.fixture
async def workspace(request: pytest.FixtureRequest, base_dir: Path, seed: Seed) -> AsyncIterator[Workspace]:
    isolation = getattr(request, "param", Isolation.NONE)
    settings = WorkspaceSettings(isolation=isolation, command_timeout=1)  # meant to expire
    async with launch_workspace(settings, base_dir=base_dir) as client:
        await client.seed(seed)
        yield client


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


def shell(script: str, **options: dict[str, str]) -> ProcessSpec:
    return ProcessSpec(("sh", "-c", script), **options)


async def test_lines_and_input_go_both_ways_while_it_runs(workspace: Workspace) -> None:
    script = "while read line; do echo got $line; done; echo over; echo trouble >&2; exit 3"
    async with workspace.start(shell(script), timeout=PATIENCE) as process:
        lines = process.lines()
        for word in (b"one", b"two"):
            await process.write(word + b"\n")
            assert await anext(lines) == b"got " + word
        await process.write(b"", end=True)
        assert [line async for line in lines] == [b"over"]
        result = await process.wait()
    assert (result.exit_code, result.errors, result.truncated) == (3, "trouble\n", False)


async def test_it_gets_its_files_in_home_and_its_variables(workspace: Workspace) -> None:
    files = {".config/tool.json": "{}"}
    spec = ProcessSpec(
        ("sh", "-c", 'cat "$HOME/.config/tool.json"; echo; env'), env={"KEY": "value"}, files=files
    )
    async with workspace.start(spec, timeout=PATIENCE) as process:
        lines = [line async for line in process.lines()]
    assert lines[0] == b"{}"
    assert b"KEY=value" in lines
    assert [line for line in lines if line.startswith(b"PWD=") and line.endswith(b"/tree")]


async def test_the_patch_can_be_had_while_it_runs(workspace: Workspace) -> None:
    script = "echo new > new.txt; (setsid sleep 60 &); echo ready; read word; echo $word"
    async with workspace.start(shell(script), timeout=PATIENCE) as process:
        lines = process.lines()
        assert await anext(lines) == b"ready"
        for _ in range(2):
            assert b"new.txt" in (await workspace.diff()).data
        await process.write(b"still here\n")
        assert await anext(lines) == b"still here"
        assert (await process.wait()).exit_code == 0
    assert b"new.txt" in (await workspace.diff()).data


async def test_its_result_is_not_lost_to_a_patch_that_is_asked_for_as_it_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, connect = [], asyncio.open_unix_connection

    async def noted(*, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opened.append(sock)
        return await connect(sock=sock)

    monkeypatch.setattr(asyncio, "open_unix_connection", noted)
    async with workspace.start(shell("read line; exit 3"), timeout=PATIENCE) as process:
        await process.write(b"", end=True)
        # The agent is busy while the process ends, so that it has not read the result when it asks.
        ended = select.poll()
        ended.register(opened[-1], select.POLLRDHUP)
        assert ended.poll(PATIENCE * 1000)
        with pytest.raises(WorkspaceGoneError):
            await workspace.diff()
        assert (await process.wait()).exit_code == 3


@both
async def test_leaving_the_block_ends_it_with_its_daemons(workspace: Workspace) -> None:
    mark = f"98771.{os.getpid()}"
    script = f"(setsid sleep {mark} >/dev/null 2>&1 &); echo ready; sleep {mark}"
    async with workspace.start(shell(script), timeout=PATIENCE) as process:
        assert await anext(process.lines()) == b"ready"
    await workspace.ping()
    assert not alive(mark)


@both
async def test_its_time_ends_it(workspace: Workspace) -> None:
    mark = f"98772.{os.getpid()}"
    sleeping = shell(f"(setsid sleep {mark} &) ; sleep {mark}")
    async with workspace.start(sleeping, timeout=0.3) as process:  # meant to expire
        assert (await process.wait()).exit_code is None
    assert not alive(mark)


@pytest.mark.long
async def test_a_flood_of_output_ends_it(workspace: Workspace) -> None:
    async with workspace.start(
        shell("yes $(head -c 9999 /dev/zero | tr '\\0' x)"), timeout=PATIENCE
    ) as process:
        size = sum([len(line) + 1 async for line in process.lines()])
        assert (await process.wait()).truncated
    assert 0 < size <= framing.MAX_STREAM


async def test_a_line_that_is_too_long_is_left_out(workspace: Workspace) -> None:
    script = f"echo first; head -c {MAX_LINE + 70_000} /dev/zero | tr '\\0' x; echo; echo last"
    async with workspace.start(shell(script), timeout=PATIENCE) as process:
        assert [line async for line in process.lines()] == [b"first", b"last"]


async def test_a_process_that_closes_its_input_is_not_disturbed(workspace: Workspace) -> None:
    # It outlives the limit of a command, too.
    async with workspace.start(shell("exec <&-; echo closed; sleep 1.2"), timeout=PATIENCE) as process:
        lines = process.lines()
        assert await anext(lines) == b"closed"
        await process.write(b"x" * 300_000, end=True)
        assert (await process.wait()).exit_code == 0


async def test_a_program_that_is_not_there_is_named(workspace: Workspace) -> None:
    async with workspace.start(ProcessSpec(("no-such-cli",)), timeout=PATIENCE) as process:
        with pytest.raises(WorkspaceRequestError, match="no-such-cli"):
            await process.wait()


async def test_a_workspace_that_is_gone_ends_lines_and_patch(workspace: Workspace) -> None:
    async with workspace.start(shell("kill -9 $PPID; sleep 60"), timeout=PATIENCE) as process:
        assert [line async for line in process.lines()] == []
        with pytest.raises(WorkspaceGoneError):
            await process.wait()
        with pytest.raises(WorkspaceGoneError):
            await workspace.diff()
