"""The proxy's program is told to end while it starts: it does, and Squid with it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from coding_agent_cluster.network import free_ports

SQUID = """#!/bin/sh
case "$*" in *"-k parse"*) kill -TERM $PPID; exit 0;; esac
echo $$ > {folder}/pid
exec sleep 600
"""


def test_a_stop_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    squid, config = tmp_path / "bin" / "squid", tmp_path / "config.yaml"
    squid.parent.mkdir()
    squid.write_text(SQUID.format(folder=tmp_path))
    squid.chmod(0o755)
    config.write_text(yaml.safe_dump({"egress": {"key": "shared"}}))
    port, denials = free_ports(2)
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--denials-port", str(denials), "--folder", str(tmp_path / "run")]
    program = subprocess.run(
        [sys.executable, "-m", "coding_agent_egress", *arguments],
        env={**os.environ, "PATH": f"{squid.parent}:{os.environ['PATH']}"},
        timeout=60,
        check=False,
    )
    assert program.returncode == 0
    started = tmp_path / "pid"
    pid = started.read_text().strip() if started.exists() else ""
    assert not (pid and Path("/proc", pid).exists())
