"""Processes are found again and ended for certain, and waiting ends."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import urllib3
from coding_agent_cluster.access import KubectlError
from coding_agent_cluster.processes import Processes, fingerprint
from coding_agent_cluster.wait import until
from kubernetes.client.exceptions import ApiException


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_a_pid_that_another_process_has_by_now_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "old").write_text(f"{os.getpid()} 1")
    assert processes.pid("old") is None
    processes.stop("old", how=signal.SIGKILL, timeout=5)  # this test goes on


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_started_again_is_ended_with_its_program(
    processes: Processes, tmp_path: Path, how: signal.Signals
) -> None:
    processes.start("looping", ["sh", "-c", "echo pid $$; sleep 60"], restarts=1000)
    until("output", lambda: "pid" in processes.log_tail("looping"), timeout=60)
    program = int(processes.log_tail("looping").split()[1])
    started, shell = fingerprint(program), processes.pid("looping")
    assert started is not None
    assert shell not in (None, program)
    Processes(tmp_path).stop("looping", how=how, timeout=60)
    assert fingerprint(shell or 0) is None
    assert fingerprint(program) != started
    assert processes.names() == []


def request(error: Exception, **options: Any) -> str:
    """Wait for a probe that fails once with this error."""
    answers = iter([error])

    def probe() -> str:
        for answer in answers:
            raise answer
        return "here"

    return until("it", probe, timeout=5, pause=lambda _: None, **options)


def kubectl(stderr: str) -> KubectlError:
    return KubectlError(("get", "pods"), stderr)


def http_status(status: int) -> httpx.HTTPStatusError:
    asked = httpx.Request("GET", "http://forge.example/")
    return httpx.HTTPStatusError("no", request=asked, response=httpx.Response(status, request=asked))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        *(ApiException(status=status) for status in (None, 408, 429, 500, 503)),
        urllib3.exceptions.ReadTimeoutError(None, "/", "read timed out"),  # type: ignore[arg-type]
        httpx.ConnectError("refused"),
        *map(http_status, (429, 502)),
        kubectl("The connection to the server 127.0.0.1:6443 was refused - did you specify the right host?"),
        kubectl("Error from server: etcdserver: request timed out"),
    ],
    ids=repr,
)
def test_waiting_goes_on_after_an_error_that_passes(error: Exception) -> None:
    assert request(error) == "here"


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("two tasks"),
        KeyError("status"),
        *(ApiException(status=status) for status in (400, 403, 404, 409, 422)),
        http_status(404),
        kubectl('Error from server (NotFound): pods "web" not found'),
        kubectl("command terminated with exit code 3"),
    ],
    ids=repr,
)
def test_waiting_ends_at_once_with_an_error_that_stays(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        request(error)
    assert raised.value is error
