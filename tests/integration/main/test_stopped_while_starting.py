"""SIGTERM while a program starts as a container's first process: the program ends at once, with 143.

The kernel drops SIGTERM for such a process that has no handler (pid_namespaces(7)): a cancelled attempt
would work on until it is killed.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_operator.jobs.pod_spec import command_of, init_container
from coding_agent_testbed.until import until

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = ("unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]))
TERM = 1 << (signal.SIGTERM - 1)


def entry_point(image: str) -> list[str]:
    """As the image's Dockerfile gives it, with the checkout in place of the image's folder."""
    for file in (ROOT / "Dockerfile", ROOT / "Dockerfile.receiver", ROOT / "Dockerfile.consumer"):
        stage = re.search(rf"^FROM \S+ AS {image}$(.*?)(?=^FROM|\Z)", file.read_text(), re.M | re.S)
        if stage is not None:
            (found,) = re.findall(r"^ENTRYPOINT (\[.*\])$", stage[1], re.M)
            return [str(word).replace("main.py", f"{ROOT}/main.py") for word in json.loads(found)]
    raise AssertionError(f"no stage is called {image}")


ATTEMPT = [word.replace("/app/", f"{ROOT}/") for word in command_of("attempt")]
_WORKSPACE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["workspace"]
GATE = [*_WORKSPACE["entrypoint"], "--folder", "gate", "--root", "files"]
COPY = init_container("program", JobTemplate(), ("program", "program"), {}, ())["command"]
PROGRAMS = {
    "attempt": ATTEMPT,
    "consumer": [*entry_point("consumer"), "--mode", "consumer"],
    "receiver": [*entry_point("receiver"), "--mode", "webhook"],
    "operator": [*entry_point("operator"), "--mode", "operator"],
    "user-config": entry_point("user-config"),
    "egress": entry_point("egress"),
    "gate": GATE,
    "init container": list(COPY),
}
IMPORT_THAT_HANGS = """
import pathlib, sys, time

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "pydantic":
            pathlib.Path("importing").touch()
            while True:
                time.sleep(0.01)  # not a wait

sys.meta_path.insert(0, Finder())
"""


@contextmanager
def first_process(command: Sequence[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a program as the first process of a PID namespace; the process to wait for, and its own id."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERMINATION_LOG": str(folder / "termination-log"),
        "PYTHONPATH": str(folder),
        "CONFIG_FILE": str(ROOT / "config.yaml"),
    }
    (folder / "termination-log").touch()
    for used_by_the_gate in ("gate", "files"):
        (folder / used_by_the_gate).mkdir()
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*NAMESPACE, "--pid", "--fork", "--kill-child", "--mount-proc", *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as started,
    ):
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        try:
            until("the namespace's first process is there", lambda: children.read_text().split())
            yield started, int(children.read_text())
        finally:
            started.kill()


def is_python(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").readlink().name.startswith("python")


def keeps_sigterm(pid: int) -> bool:
    """Whether the process handles SIGTERM, or blocks it, so that the kernel keeps it."""
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return any(int(mask, 16) & TERM for mask in masks)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sigterm_is_never_dropped(program: str, tmp_path: Path) -> None:
    with first_process(PROGRAMS[program], tmp_path) as (started, pid):
        until("the program is started", lambda: is_python(pid))
        assert keeps_sigterm(pid), "before its first line"
        ends_at_once(program, started, pid, tmp_path)


@pytest.mark.parametrize("program", ["attempt", "operator", "user-config", "egress"])
def test_imports_are_not_waited_for(program: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IMPORT_THAT_HANGS)
    with first_process(PROGRAMS[program], tmp_path) as (started, pid):
        until("it imports", (tmp_path / "importing").exists)
        ends_at_once(program, started, pid, tmp_path)


def ends_at_once(program: str, started: subprocess.Popen[bytes], pid: int, folder: Path) -> None:
    """SIGTERM ends it with 143, and an attempt leaves its outcome.

    The gate imports so little that it may have started. Then it ends with 0, because it has no task to stop.
    """
    os.kill(pid, signal.SIGTERM)
    expected = {143, 0} if program == "gate" else {143}
    assert started.wait(60) in expected, (folder / "log").read_text()
    outcome = Outcome.from_termination_message((folder / "termination-log").read_text())
    assert (outcome and outcome.reason) == (Reason.CANCELLED if program == "attempt" else None)
