"""A workspace in a container of its own that ends, or does not answer: what is told, and for how long it is
waited for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import workspace_client
from coding_agent_consumer.workspace.launch import connect_sidecar
from coding_agent_consumer.workspace.protocol import WorkspaceGoneError, WorkspaceRequestError
from coding_agent_consumer.workspace.workspace_client import WorkspaceClient
from coding_agent_core.settings.attempt_settings import WorkspaceSettings

from tests.integration.consumer_attempt.place import WorkspaceProcess

LONGEST_BACKOFF = 300
"""Seconds that the kubelet waits at most before it starts a container again."""
SHORT = 0.01
"""Seconds: less than any start of a program takes."""
ENDS_IT = "echo kept > kept.md; kill -9 $PPID; sleep 9"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[WorkspaceProcess]:
    made = WorkspaceProcess(tmp_path)
    made.fresh()
    # Here it is waited for, so that the tests' own limits are those of a restart alone.
    await connect_sidecar(WorkspaceSettings(), made.socket)
    yield made
    made.end()


async def test_a_restart_may_take_as_long_as_the_kubelets_longest_backoff(process: WorkspaceProcess) -> None:
    workspace = await connect_sidecar(WorkspaceSettings(), process.socket)
    assert workspace.restart_patience > LONGEST_BACKOFF
    for _ in range(2):
        restarting = asyncio.create_task(asyncio.to_thread(process.restart_when_ended))
        result = await workspace.run(ENDS_IT)
        await restarting
        assert result.exit_code == 137
        assert "restarted" in result.output
        assert "memory" in result.output, "what commands do that ends it"
    assert "kept" in await workspace.read_file("kept.md")


async def test_one_that_does_not_come_back_is_given_up(process: WorkspaceProcess) -> None:
    workspace = WorkspaceClient(process.socket, command_timeout=60, output_limit=1000, restart_patience=SHORT)
    await workspace.connect(60)
    with pytest.raises(WorkspaceGoneError, match="has not answered for"):
        await workspace.run(ENDS_IT)


async def test_an_answer_that_does_not_come_is_not_called_an_end(
    process: WorkspaceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await connect_sidecar(WorkspaceSettings(command_timeout=30), process.socket)
    await workspace.run("echo kept > kept.md")
    monkeypatch.setattr(
        workspace_client, "_GRACE_SECONDS", -29.0
    )  # it loses patience before the workspace does
    result = await workspace.run("sleep 25")
    assert result.exit_code == 137
    assert result.output.startswith("The workspace did not answer within 1 s. It answers again.")
    assert "restarted" not in result.output
    assert "memory" not in result.output
    assert "kept" in await workspace.read_file("kept.md")


async def test_an_edit_that_was_cut_off_is_to_be_looked_at(process: WorkspaceProcess) -> None:
    workspace = await connect_sidecar(WorkspaceSettings(), process.socket)
    await workspace.write_file("a.md", "a\n")
    process.end()
    restarting = asyncio.create_task(asyncio.to_thread(process.restart_when_ended))
    with pytest.raises(WorkspaceRequestError, match=r"restarted.*Check whether a\.md was edited"):
        await workspace.edit_file("a.md", "a", "b")
    await restarting
