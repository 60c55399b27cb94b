"""Who may connect to a workspace's socket: the group that agent and workspace share in a pod."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED, OWN = 10003, 55948
LISTEN = """
import os, sys
from pathlib import Path
from coding_agent_consumer.workspace.workspace_server import listen

shared, own, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
os.setgroups([shared] if shared else [])
os.setgid(own)
os.setuid(own)
listen(path, group=True)
found = path.stat()
print(found.st_gid, oct(found.st_mode & 0o777))
"""


def group_of_socket(folder: Path, shared: int) -> str:
    command = [sys.executable, "-c", LISTEN, str(shared), str(OWN), str(folder / "workspace.sock")]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user reaches, which pytest's own are not: only root may enter them."""
    with tempfile.TemporaryDirectory(prefix="coding-agent-") as name:
        path = Path(name)
        path.chmod(0o1777)
        yield path


@pytest.mark.needs_root
def test_the_volumes_group_may_connect(folder: Path) -> None:
    subprocess.run(["chgrp", str(SHARED), folder], check=True)
    folder.chmod(0o2777)  # as the kubelet prepares a volume for fsGroup
    assert group_of_socket(folder, SHARED) == f"{SHARED} 0o660"


@pytest.mark.needs_root
def test_the_shared_group_may_connect_where_the_runtime_made_the_folder(folder: Path) -> None:
    assert group_of_socket(folder, SHARED) == f"{SHARED} 0o660"


@pytest.mark.needs_root
def test_a_process_without_another_group_shares_with_nobody(folder: Path) -> None:
    assert group_of_socket(folder, 0) == f"{OWN} 0o660"
