"""Wall: the workspace of a CLI coding agent. Its commands find the gateway and its dummy, and no secret.

The decoy is what the agent's program holds: the same search finds the gateway's address, and the dummy unless
the program hides it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest
from coding_agent_demo.programs import CACHE, program_folder, version_of
from coding_agent_model.script import Call, Script, Turn

from tests.fixtures.system import BOT_TOKEN, DONE, MODEL_KEY, ROOT, SECRET, StartSystem, until
from tests.security.test_workspace import ASK_FILES, ASK_PROCESSES, CANARY

pytestmark = pytest.mark.long
BRANCH = "coding-agent/issue-1"
WAIT = 170.0
ASK_GATEWAY = r"""cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline > $TMPDIR/found 2>/dev/null; python3 - <<'END'
import os, re
from urllib.error import HTTPError
from urllib.request import Request, urlopen
found = open(os.environ["TMPDIR"] + "/found", "rb").read()
url = re.search(rb"http://127\.0\.0\.1:\d+", found)[0].decode()
key = (re.findall(rb"gateway-[\w-]{40,}", found) or [b"HIDDEN"])[0].decode()
print("GATEWAY", url, key)
headers = {"authorization": "Bearer " + key}, {"x-api-key": key}, {"x-goog-api-key": key}
for path in ("/", "/v1/models", "/v1beta/models", "/metrics", "/.env", "/../", "/_sandbox/requests"):
    for header in headers:
        try:
            answer = urlopen(Request(url + path, headers=header), timeout=60)
            print(answer.status, answer.headers, answer.read()[:2000])
        except HTTPError as error:
            print(error.code, error.headers, error.read()[:2000])
        except OSError as error:
            print(error)
END"""


ASK_SOCKETS = r"""cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix; (ss -xtlnp || netstat -xtlnp)
python3 - <<'END'
import socket
for line in list(open("/proc/net/unix"))[1:]:
    kind, path = int(line.split()[4], 16), line.split()[-1]
    if path.startswith("/"):
        with socket.socket(socket.AF_UNIX, kind) as way:
            way.settimeout(2)
            try:
                way.connect(path)
                print("UNIX", "CONNECTED", path)
            except OSError:
                pass
END"""


@pytest.mark.parametrize("runner", ["claude-code", "codex", "opencode", "gemini", "command"])
def test_its_commands_find_the_dummy_and_no_secret(
    start_system: StartSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    monkeypatch.setattr("tests.fixtures.system.start_main", start_afresh)
    readable = []
    if runner != "command":
        monkeypatch.setenv("PATH", f"{program_folder(runner)}:{os.environ['PATH']}")
        readable = [str(CACHE / f"{runner}-{version_of(runner)}")]
    # Without the last of them, which reads each open file for up to a second.
    commands = [*ASK_PROCESSES[:-1], *ASK_FILES, ASK_SOCKETS, ASK_GATEWAY, "echo HUNT IS OVER"]
    asked = [asks(command, tmp_path) for command in commands]
    turns = [Turn(calls=(Call(run=text),)) for text in asked]
    system = start_system("github", [Script(turns=(*turns, Turn(text="I looked around.")))])
    provider = {"claude-code": "anthropic", "gemini": "google"}.get(runner, "openai")
    url = system.model.base_url if provider == "openai" else system.model.url
    system.sections = {
        "llm": {
            "provider": provider,
            provider: {"base_url": url, "api_key": MODEL_KEY, "model": "scripted"},
        },
        "consumer": {
            "runner": runner,
            "workspace": {"isolation": "namespaces", "readable": readable},
            **({"command": ["bash", "-c", "\n".join(asked)]} if runner == "command" else {}),
        },
    }
    program = system.start_webhook()
    system.put_label(1)
    until(lambda: DONE in system.labels(1), lambda: f"the hunt is done: {program.text()[-3000:]}", WAIT)

    found = system.file_at(BRANCH, "hunt.txt")
    assert "HUNT IS OVER" in found
    gateway = re.search(r"GATEWAY (\S+) (\S+)", found)
    assert gateway is not None, "the decoy: what the program holds is found"
    port = int(gateway[1].rpartition(":")[2])
    assert f"0100007F:{port:04X}" in found, "the decoy: sockets are listed"
    for secret in (BOT_TOKEN, MODEL_KEY, SECRET, f"FOUND {CANARY}", "PTRACE ATTACHED"):
        assert secret not in found, found[max(0, found.index(secret) - 500) :][:1000]
    # Claude Code serves its own commands there, in the folder for temporary files of this attempt alone.
    reached = re.findall(r"UNIX CONNECTED (?!/tmp/cc-socks/)(.*)", found)
    assert reached == []
    with pytest.raises(httpx.ConnectError):  # it lived as long as the attempt
        httpx.get(gateway[1], timeout=60, trust_env=False)


def start_afresh(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
) -> subprocess.Popen[bytes]:
    """`main.py` in a process of its own: a fork of the tests' own would keep the PATH of its imports."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments], cwd=cwd, env=env, stdout=out, stderr=out
        )


def asks(command: str, folder: Path) -> str:
    """A command that looks for our secrets and keeps what it finds."""
    # In the memory of processes: the real one, in two pieces so that it is not in the command itself.
    command = re.sub(r"b'canary-' b'\w+'", "b'bot-token' b'-4242'", command)
    for name, value in (
        ("@AGENT@", "1"),
        ("@SECRET@", str(folder / "config.yaml")),
        ("@FOLDER@", str(folder)),
        ("-hsF canary-", "-hsF bot-token-"),
    ):
        command = command.replace(name, value)
    return f"{{ {command}\n}} 2>&1 </dev/null | tr -cd '\\11\\12\\40-\\176' >> hunt.txt"
