"""A check of the sandbox's CI always ends, and keeps what its command wrote."""

from pathlib import Path

import pytest
from coding_agent_testbed.forge import ci


@pytest.mark.parametrize(
    ("command", "result", "ending"),
    [
        ("echo passed", "success", b"passed\n"),
        ("echo broken; exit 3", "failure", b"broken\n"),
        ("echo before; exec sleep 600", "timed_out", b"before\n"),
        ("sleep 600 & echo parent", "success", b"parent\n"),
        ("yes", "failure", b"y\ny\n"),
    ],
)
async def test_a_command_ends(
    command: str, result: str, ending: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci, "COMMAND_TIMEOUT", 2.0 if "exec" in command else 60.0)
    monkeypatch.setattr(ci, "_FILE_LIMIT", 1_000_000)
    monkeypatch.setattr(ci, "_LOG_LIMIT", 1000)
    found, log = await ci.output_of(command, tmp_path, tmp_path / "log")
    assert found == result
    assert log.startswith(f"$ {command}\n".encode())
    assert log.endswith(ending)
    assert len(log) <= 1100
