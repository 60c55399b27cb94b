"""Running a short command: always with a deadline, and with its own words in the error."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from coding_agent_testbed.cluster.errors import ClusterError


def run(
    command: Sequence[str],
    *,
    timeout: float = 60.0,
    stdin: str | IO[bytes] | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return what it prints on standard output.

    Raises:
        ClusterError: it is not there, did not succeed, or took more than ``timeout`` seconds.
    """
    shown = " ".join(command)[:200]
    try:
        done = subprocess.run(
            list(command),
            input=stdin if isinstance(stdin, str) else None,
            stdin=None if isinstance(stdin, str) else (stdin or subprocess.DEVNULL),
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} was not found") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{shown}: took more than {timeout:g} s") from error
    if done.returncode:
        raise ClusterError(f"{shown}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
