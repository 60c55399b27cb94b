"""Wall: the workspace against its own tree. Nothing that a command leaves there stops the workspace.

The decoys: plain Python waits at the same FIFO, and recurses too deep in the same folders.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from coding_agent_consumer.workspace.client import WorkspaceClient
from coding_agent_consumer.workspace.launch import connect_sidecar, launch_workspace
from coding_agent_consumer.workspace.protocol import WorkspaceRefusedError
from coding_agent_core.settings.attempts import WorkspaceSettings

from tests.integration.consumer_attempt.place import WorkspaceProcess

AT_ONCE = 15
"""Seconds; an answer takes milliseconds, and an operation that waits for a FIFO has 30 s or more."""
DEEP = 'python3 -c \'import os\nfor n in range(3000): os.mkdir("d"); os.chdir("d")\''
"""Nested folders, as no path can name the last one."""


@pytest.fixture
async def workspace(base_dir: Path, bundle: Path) -> AsyncIterator[WorkspaceClient]:
    async with launch_workspace(WorkspaceSettings(base_dir=base_dir)) as client:
        await client.seed(bundle, "work")
        yield client


@pytest.mark.parametrize(
    "place",
    [
        *("../git/config", "../git/info/exclude", "../git/HEAD", "../git/index", "../git/packed-refs"),
        *("../git/index.lock", "../git/info/attributes", "../git/objects/info/alternates", "../seeded"),
    ],
)
async def test_a_fifo_beside_the_tree_makes_nothing_wait(workspace: WorkspaceClient, place: str) -> None:
    await workspace.run(f"rm -f {place}; mkfifo {place}; echo x > new")
    operations: list[Callable[[], Awaitable[object]]] = [
        workspace.diff,
        workspace.list_files,
        lambda: workspace.search("x"),
        lambda: workspace.write_file("written", "x"),
        lambda: workspace.read_file("new"),
    ]
    for operation in operations:
        async with asyncio.timeout(AT_ONCE):
            try:
                await operation()
            except WorkspaceRefusedError:
                assert place in ("../git/HEAD", "../git/index"), "what git itself needs may be lost"


@pytest.mark.parametrize("plant", ["mkfifo {}", "mkfifo pipe; ln -s $PWD/pipe {}"])
@pytest.mark.parametrize("name", [".gitignore", "sub/.gitignore", ".gitattributes", ".gitmodules"])
async def test_a_fifo_that_git_would_read_is_named(workspace: WorkspaceClient, name: str, plant: str) -> None:
    await workspace.run(f"mkdir sub; rm -f {name}; " + plant.format(name))
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(WorkspaceRefusedError, match=name):
            await workspace.diff()
    await workspace.run(f"rm {name}; echo x > new")
    assert b"b/new" in (await workspace.diff()).data


@pytest.mark.parametrize("path", ["pipe", "folder/pipe"])
async def test_file_operations_at_a_fifo_do_not_wait(workspace: WorkspaceClient, path: str) -> None:
    await workspace.run(f"mkdir folder; mkfifo {path}")
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(WorkspaceRefusedError):
            await workspace.read_file(path)
        with pytest.raises(WorkspaceRefusedError):
            await workspace.edit_file(path, "a", "b")
        await workspace.write_file(path, "a file again\n")
        assert "a file again" in await workspace.read_file(path)


def test_plain_python_waits_at_a_fifo(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sh", "-c", "echo x > pipe"], check=False, cwd=tmp_path, timeout=0.5)


async def test_nested_folders_do_not_keep_the_workspace_from_its_end(base_dir: Path, bundle: Path) -> None:
    """`base_dir` asserts that nothing is left."""
    async with launch_workspace(WorkspaceSettings(base_dir=base_dir)) as client:
        await client.seed(bundle, "work")
        assert (await client.run(DEEP)).exit_code == 0


async def test_nested_folders_do_not_keep_the_workspace_from_starting_again(
    tmp_path: Path, bundle: Path
) -> None:
    """A command removed the mark of a complete seed: the next start removes what looks half seeded."""
    process = WorkspaceProcess(tmp_path)
    process.fresh()
    try:
        client = await connect_sidecar(WorkspaceSettings(start_timeout=60), process.socket)
        await client.seed(bundle, "work")
        restarting = asyncio.create_task(asyncio.to_thread(process.restart_when_ended))
        await client.run(f"rm ../seeded; {DEEP}; kill -9 $PPID; sleep 9")
        await restarting
        await client.seed(bundle, "work")
        assert await client.list_files() == ".gitignore\ncalc.py\nlogo.bin"
    finally:
        process.end()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="rmtree does not recurse any more")
def test_plain_python_recurses_too_deep(tmp_path: Path) -> None:
    subprocess.run(["sh", "-c", DEEP], cwd=tmp_path, check=True)
    with pytest.raises(RecursionError):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
