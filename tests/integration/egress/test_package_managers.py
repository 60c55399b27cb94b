"""Package managers through the proxy, against the registries that they are configured for on this machine.

No host is written here: what the proxy denies is allowed next, as an administrator would do, until the tool
has what it wants.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from coding_agent_core.egress import VARIABLES

from tests.fixtures.egress import EgressProxy, StartEgress
from tests.fixtures.system import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

_HOSTS = Path(__file__).resolve().parents[3] / "plugin/src/kubectl_agenttask/hosts.sh"
_ROUNDS, _TRIES = 8, 3
_SECONDS = 120
_LISTENS = "Accepting HTTP Socket connections"
"""What Squid logs at its start and after each reload."""
_CARGO = '[package]\nname = "a"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nitoa = "1"\n'
_APT = (
    *("Dir::State::lists=lists", "Dir::Cache=cache", "APT::Sandbox::User=root", "Acquire::Languages=none"),
    *("APT::Update::Error-Mode=any", "Acquire::Retries=0"),
)
COMMANDS = {
    "pip": ["pip", "download", "--no-deps", "--no-cache-dir", "--retries", "1", "--dest", ".", "six"],
    "npm": ["npm", "pack", "--fetch-retries", "0", "--cache", "cache", "is-odd"],
    "go": ["go", "mod", "download", "github.com/google/uuid@v1.6.0"],
    "cargo": ["cargo", "fetch"],
    "apt": ["apt-get", "update", *(part for option in _APT for part in ("-o", option))],
}


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress) -> EgressProxy:
    return start_egress({})


def allow(proxy: EgressProxy, hosts: list[str]) -> None:
    """Put the hosts into the lists, and wait until they count. A mirror may be in a private network."""
    names = [host.partition(":")[0] for host in hosts]
    before = proxy.log().count(_LISTENS)
    proxy.write({"egress": {"allow": hosts, "private": names}})
    until(lambda: proxy.log().count(_LISTENS) > before, "the list is in force")


def prepared(tool: str, folder: Path) -> dict[str, str]:
    """What the tool needs in the folder; its environment, without any proxy."""
    assert shutil.which(COMMANDS[tool][0]) is not None, f"{tool} is not installed"
    (folder / "src").mkdir()
    (folder / "src" / "lib.rs").touch()
    if tool == "cargo":
        (folder / "Cargo.toml").write_text(_CARGO)
    own = {"GOPATH": str(folder / "go"), "GOFLAGS": "-modcacherw", "PIP_FIND_LINKS": ""}
    own |= {"CARGO_HOME": str(folder / "cargo"), "CARGO_NET_RETRY": "0"}
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | own


def install(tool: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Let the tool fetch a package."""
    try:
        return subprocess.run(
            COMMANDS[tool],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(COMMANDS[tool], 1, "", str(error))


def is_refusal(said: str) -> bool:
    """Whether the tool says that the proxy refused it."""
    return "403" in said or "Forbidden" in said


@pytest.mark.parametrize("tool", COMMANDS)
def test_a_package_manager_works_with_the_hosts_that_were_denied(
    proxy: EgressProxy, tool: str, tmp_path: Path
) -> None:
    environment = prepared(tool, tmp_path) | proxy.variables(job := f"{tool}-1")
    allowed: list[str] = []
    said: list[str] = []

    def denied() -> list[str]:
        return [host for host in proxy.denials(job) if host not in allowed]

    for _ in range(_ROUNDS):
        run = install(tool, environment, tmp_path)
        said.append(run.stdout + run.stderr)
        if run.returncode == 0:
            break
        if not (is_refusal(said[-1]) or denied()):
            continue  # a registry may fail for a moment
        # They are counted a moment after the tool was answered.
        allowed += until(denied, lambda: f"another denial; {said}")
        allow(proxy, allowed)
    else:
        pytest.fail("\n".join(said))
    assert allowed, "it went through the proxy"
    assert is_refusal(said[0]), said[0]


def test_the_script_prints_the_hosts_for_which_the_tools_are_configured(
    proxy: EgressProxy, tmp_path: Path
) -> None:
    with _HOSTS.open() as script:
        run = subprocess.run(["sh"], stdin=script, capture_output=True, text=True, timeout=120, check=True)
    allow(proxy, yaml.safe_load(run.stdout)["egress"]["allow"])
    for tool in ("pip", "npm", "go"):
        folder = tmp_path / tool
        folder.mkdir()
        environment = prepared(tool, folder) | proxy.variables(f"configured-{tool}-1")
        for _ in range(_TRIES):
            said = install(tool, environment, folder)
            if said.returncode == 0 or is_refusal(said.stdout + said.stderr):
                break
        assert said.returncode == 0, said.stdout + said.stderr + run.stdout
