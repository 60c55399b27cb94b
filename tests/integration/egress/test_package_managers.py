"""Package managers through the proxy, against the registries that they are configured for on this machine."""

import functools
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from coding_agent_core.task.egress import VARIABLES
from coding_agent_testbed.until import until

from tests.fixtures.egress import StartEgress

_HOSTS = Path(__file__).resolve().parents[3] / "plugin/src/kubectl_agenttask/hosts.sh"
COMMANDS = {
    "pip": ["pip", "download", "--no-deps", "--no-cache-dir", "--retries", "1", "--dest", ".", "six"],
    "npm": ["npm", "pack", "--fetch-retries", "0", "--cache", "cache", "is-odd"],
    "go": ["go", "mod", "download", "github.com/google/uuid@v1.6.0"],
}
TRIES = 3
"""A registry may fail for a moment."""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_script_prints_the_hosts_for_which_the_tools_are_configured(
    start_egress: StartEgress, tmp_path: Path
) -> None:
    with _HOSTS.open() as script:
        run = subprocess.run(["sh"], stdin=script, capture_output=True, text=True, timeout=120, check=True)
    hosts = yaml.safe_load(run.stdout)["egress"]["allow"]
    # A mirror may be in a private network.
    listed = {"egress": {"allow": hosts, "private": [host.partition(":")[0] for host in hosts]}}
    for proxy, allowed in ((start_egress({}), False), (start_egress(listed), True)):
        for tool, command in COMMANDS.items():
            folder = tmp_path / f"{tool}-{allowed}"
            folder.mkdir()
            own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
            own |= {"GOPATH": str(folder / "go"), "GOFLAGS": "-modcacherw", "PIP_FIND_LINKS": ""}
            own |= proxy.variables(f"{tool}-1")
            for _ in range(TRIES if allowed else 1):
                done = subprocess.run(
                    command, cwd=folder, env=own, capture_output=True, text=True, timeout=240, check=False
                )
                if done.returncode == 0:
                    break
            assert (done.returncode == 0) is allowed, done.stdout + done.stderr + run.stdout
            if not allowed:  # they are counted a moment after the tool was answered
                until(f"{tool} went through the proxy", functools.partial(proxy.denials, f"{tool}-1"))
