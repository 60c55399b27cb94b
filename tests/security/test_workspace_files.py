"""Wall: the workspace against its own tree. Nothing that a command leaves there stops the workspace.

The decoy: plain sh waits at the same FIFO.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from coding_agent_consumer.workspace.framing import Seed
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceRequestError
from coding_agent_core.settings.attempt_settings import WorkspaceSettings

AT_ONCE = 25
"""Seconds; an answer takes milliseconds, and an operation that waits for a FIFO has 30 s or more."""
DEEP = 'python3 -c \'import os\nfor n in range(3000): os.mkdir("d"); os.chdir("d")\''
"""Nested folders, as no path can name the last one."""


@pytest.fixture
async def workspace(base_dir: Path, seed: Seed) -> AsyncIterator[Workspace]:
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        await client.seed(seed)
        yield client


async def test_a_fifo_beside_the_tree_makes_nothing_wait(workspace: Workspace) -> None:
    operations: list[Callable[[], Awaitable[object]]] = [
        workspace.diff,
        workspace.list_files,
        lambda: workspace.search("x"),
        lambda: workspace.write_file("written", "x"),
        lambda: workspace.read_file("new"),
    ]
    for place in (
        *("../git/config", "../git/info/exclude", "../git/packed-refs", "../git/index.lock", "../seeded"),
        *("../git/info/attributes", "../git/objects/info/alternates", "../git/index", "../git/HEAD"),
    ):
        await workspace.run(f"rm -f {place}; mkfifo {place}; echo x > new")
        for operation in operations:
            async with asyncio.timeout(AT_ONCE):
                try:
                    await operation()
                except WorkspaceRequestError:
                    assert place in ("../git/HEAD", "../git/index"), "what git itself needs may be lost"


async def test_a_fifo_in_the_tree_is_named_and_nothing_waits(workspace: Workspace) -> None:
    await workspace.run("mkdir sub")
    for name in (".gitignore", "sub/.gitignore", ".gitattributes", ".gitmodules"):
        for plant in (f"mkfifo {name}", f"mkfifo pipe; ln -s $PWD/pipe {name}"):
            await workspace.run(f"rm -f {name} pipe; {plant}")
            async with asyncio.timeout(AT_ONCE):
                with pytest.raises(WorkspaceRequestError, match=name):
                    await workspace.diff()
            await workspace.run(f"rm {name}; echo x > new")
            assert b"b/new" in (await workspace.diff()).data
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(WorkspaceRequestError):
            await workspace.read_file("pipe")
        with pytest.raises(WorkspaceRequestError):
            await workspace.edit_file("pipe", "a", "b")
        await workspace.write_file("pipe", "a file again\n")
        assert "a file again" in await workspace.read_file("pipe")


def test_a_plain_shell_waits_at_a_fifo(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    write = ["sh", "-c", "echo x > pipe"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(write, check=False, cwd=tmp_path, timeout=0.5)  # meant to expire


async def test_nested_folders_do_not_keep_the_workspace_from_its_end(base_dir: Path, seed: Seed) -> None:
    """`base_dir` asserts that nothing is left."""
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        await client.seed(seed)
        assert (await client.run(DEEP)).exit_code == 0
