"""A program that checks something and prints what it found."""

import subprocess

_TIMEOUT_S = 120.0


def run(*command: str, stdin: str = "") -> str:
    """What it prints; fails with all of that if it does not succeed."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
