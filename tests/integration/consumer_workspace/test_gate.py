"""One workspace container for task after task: what a task leaves behind, the next one does not find."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import launch
from coding_agent_consumer.workspace.framing import Seed
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import ProcessSpec, WorkspaceGoneError
from coding_agent_core.settings.attempt_settings import WorkspaceSettings
from coding_agent_testbed.until import until, until_async


@dataclass
class Container:
    """The gate as the container's first process, and the places that its commands can write to."""

    process: subprocess.Popen[bytes]
    folder: Path
    root: Path
    temporary: Path

    def settings(self) -> WorkspaceSettings:
        return WorkspaceSettings(gate=self.folder)

    def left(self) -> list[str]:
        return [entry for place in (self.root, self.temporary) for entry in os.listdir(place)]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    places = [tmp_path / name for name in ("run", "root", "temporary")]
    for place in places:
        place.mkdir()
    folder, root, temporary = places
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "coding_agent_consumer.workspace.gate"),
            *("--folder", str(folder), "--root", str(root), "--clear", str(temporary)),
        ],
        env={"PATH": os.environ["PATH"], "SECRET_OF_THE_CONTAINER": "not for commands"},
        start_new_session=True,
    )
    yield Container(process, folder, root, temporary)
    process.terminate()
    assert process.wait(60) == 0
    assert not (folder / "gate").exists(), "it clears up when it is stopped, too"


async def test_a_task_finds_nothing_of_the_one_before(container: Container, seed: Seed) -> None:
    async with launch_workspace(container.settings()) as first:
        await first.seed(seed)
        told = await first.run(
            f"env; echo mine > ~/.profile; touch {container.temporary}/trace; mkdir -m 0 locked; "
            "setsid -f sleep 600; ps -eo pid,args | grep '[s]leep 600' | head -n 1"
        )
        assert "SECRET_OF_THE_CONTAINER" not in told.output
        assert "trace" in container.left()
        await first.diff()
    async with launch_workspace(container.settings()) as second:
        await second.seed(seed)
        look = await second.run("ls -A . ~ && cat calc.py")
        assert look.exit_code == 0
        assert "a - b" in look.output
        assert ".profile" not in look.output
        assert "trace" not in container.left()
        assert "locked" not in look.output


POSES = """
import os, socket
os.unlink(GATE) if os.path.exists(GATE) else None
posing = socket.socket(socket.AF_UNIX)
posing.bind(GATE)
posing.listen()
open(POSED, "w").write("waits")
while True:
    found, _ = posing.accept()
    open(POSED, "a").write(" got " + found.recv(1000).decode())
    found.sendall(b'{"isolation": "none", "warning": ""}\\n')
"""


async def test_no_process_of_a_task_can_pose_as_the_gate_for_the_next_one(
    container: Container, tmp_path: Path
) -> None:
    posed = tmp_path / "posed"
    program = POSES.replace("GATE", repr(str(container.folder / "gate"))).replace("POSED", repr(str(posed)))
    (tmp_path / "poses.py").write_text(program)
    for _ in range(3):
        async with (
            launch_workspace(container.settings()) as first,
            first.start(ProcessSpec(("sh", "-c", f"python3 {tmp_path}/poses.py & sleep 600")), timeout=600),
        ):
            await asyncio.to_thread(until, "it poses as the gate", posed.exists)
            started = asyncio.create_task(_entered(container, {"VARIABLE": "of the next task"}))
        await started
        assert "got" not in posed.read_text()
        posed.unlink()


async def _entered(container: Container, variables: dict[str, str]) -> None:
    async with launch_workspace(container.settings(), environment=variables) as second:
        await second.ping()


async def test_variables_of_a_task_are_for_its_commands_alone(container: Container, seed: Seed) -> None:
    mine = {"HTTP_PROXY": "http://mine:secret@egress:3128"}
    async with launch_workspace(container.settings(), environment=mine) as first:
        await first.seed(seed)
        assert mine["HTTP_PROXY"] in (await first.run("echo $HTTP_PROXY")).output
        await first.write_file("kept.txt", "kept")
        killed = await first.run("kill -9 $PPID")  # the parent of the shell is the serving program
        assert killed.exit_code == 137
        assert b"kept.txt" in (await first.diff()).data
        assert mine["HTTP_PROXY"] in (await first.run("echo $HTTP_PROXY")).output, "after a restart too"
    async with launch_workspace(container.settings()) as second:
        await second.seed(seed)
        assert "HTTP_PROXY" not in (await second.run("env")).output


async def test_who_sends_no_variables_gets_no_workspace(container: Container, seed: Seed) -> None:
    for sent in (b"", b"not JSON\n", b"[1]\n"):
        reader, writer = await until_connected(container.folder / "gate")
        writer.write(sent)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
    async with launch_workspace(container.settings()) as workspace:
        await workspace.seed(seed)


async def test_a_signal_just_before_the_clearing_leaves_nothing_behind(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("run", "root", "temporary")]
    for place in places:
        place.mkdir()
    program = """
import os, signal, sys
from coding_agent_consumer.workspace import gate
deferred = gate.signals_deferred
def too_late():
    gate.signals_deferred = deferred
    os.kill(os.getpid(), signal.SIGTERM)
    return deferred()
gate.signals_deferred = too_late
sys.exit(gate.main())
"""
    arguments = ["--folder", str(places[0]), "--root", str(places[1]), "--clear", str(places[2])]
    with subprocess.Popen([sys.executable, "-c", program, *arguments]) as process:
        reader, writer = await until_connected(places[0] / "gate")
        writer.write(b"not JSON\n")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert process.wait(60) == 0
    assert [entry for place in places for entry in os.listdir(place)] == []


async def test_a_killed_consumer_leaves_the_workspace_free_for_the_next(
    container: Container, seed: Seed
) -> None:
    reader, writer = await until_connected(container.folder / "gate")
    writer.write(b"{}\n")
    await asyncio.wait_for(reader.readline(), 60)
    writer.transport.abort()  # what the kernel does for a process that was killed
    async with launch_workspace(container.settings()) as workspace:
        await workspace.seed(seed)


async def test_a_second_task_waits_for_its_turn_and_says_so_if_it_never_comes(
    container: Container, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launch_workspace(container.settings()) as first:
        await first.seed(seed)
        with monkeypatch.context() as hasty:
            hasty.setattr(launch, "START_S", 0.5)
            with pytest.raises(WorkspaceGoneError, match="is serving another task"):
                async with launch_workspace(container.settings()):
                    pass
        waiting = asyncio.create_task(seeded(container, seed))
    await asyncio.wait_for(waiting, 60)


async def seeded(container: Container, seed: Seed) -> None:
    async with launch_workspace(container.settings()) as workspace:
        await workspace.seed(seed)


async def until_connected(gate: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # Its path is there a moment before it takes connections: an `OSError` passes.
    return await until_async("a connection", lambda: asyncio.open_unix_connection(gate))
