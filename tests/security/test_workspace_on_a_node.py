"""Wall: the workspace, on a real node. The model's commands find no secret."""

import json

import pytest

from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, REPOSITORY, SECRET
from tests.fixtures.system_in_pods import StartPods
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

DECOY = "decoy-4242"
"""Lies where commands can read it, so that a hunt which finds nothing at all is known to be a bad hunt."""

HUNT = r"""
import os, stat
secrets = {name: word[::-1].encode() for name, word in WORDS.items()}  # or it would find itself
skip = ("/proc", "/sys", "/usr", "/opt/venv", "/lib")
def search(place, data):
    for name, secret in secrets.items():
        if secret in data:
            print("FOUND", name, "in", place)
def look(path, everything=False):
    try:
        if everything or stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                search(path, file.read(20_000_000))
    except OSError:
        pass
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
    for name in files:
        look(os.path.join(folder, name))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        look(f"/proc/{pid}/{name}", everything=True)
        try:
            if b"main.py" in open(f"/proc/{pid}/{name}", "rb").read():
                print("FOUND the agent's process")
        except OSError:
            pass
for path in ("/var/run/secrets", "/run/secrets", "/etc/coding-agent", "/work"):
    if os.path.exists(path):
        print("FOUND", path)
print("socket folder:", sorted(os.listdir("/run/coding-agent")))
print("user:", os.getuid() not in (0, 10001), sorted({*os.getgroups()} - {os.getgid()}))
telling = ("TOKEN", "KEY", "TASK", "SECRET")
print("environment:", [name for name in os.environ if any(word in name for word in telling)])
try:
    open("/etc/passwd", "a")
    print("FOUND a root file system that can be written")
except OSError:
    print("hunted")
"""


def test_commands_find_no_secret_and_cannot_push(start_pods: StartPods) -> None:
    words = {"token": BOT_TOKEN[::-1], "key": MODEL_KEY[::-1], "hook": SECRET[::-1], "decoy": DECOY[::-1]}
    program = f"cat > /tmp/hunt.py <<'EOF'\nWORDS = {json.dumps(words)}\n{HUNT}\nEOF"
    hunt = f"{program}\necho {DECOY} > /tmp/lies-here; ANY={DECOY} python3 /tmp/hunt.py"
    system = start_pods("github", [])
    remote = f"{system.forge.base_url}/{REPOSITORY}.git"
    push = f"git push {remote} HEAD:refs/heads/evil; echo pushed=$?"
    system.play(script(run(hunt), run(push), finish(status="nothing_to_change")))
    system.put_label(1)
    system.wait_for_phase("Succeeded")
    found, pushed = (str(request["messages"][-1]["content"]) for request in system.model.requests[1:3])
    assert "hunted" in found
    finds = [line for line in found.splitlines() if "FOUND" in line]
    assert any("decoy in /tmp/lies-here" in line for line in finds), "it looks into files"
    assert any("decoy in /proc/" in line for line in finds), "it looks into processes"
    assert [line for line in finds if "FOUND decoy" not in line] == []
    assert "socket folder: ['workspace.sock']" in found
    assert "user: True [10003]" in found
    assert "environment: []" in found
    assert "could not read Username" in pushed, "the forge answered, and asked who is there"
    assert "pushed=128" in pushed
    assert "evil" not in system.git("for-each-ref")
    namespace = system.cluster.get("namespace", system.namespace)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
