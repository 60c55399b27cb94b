"""What a workspace in namespaces can see."""

from pathlib import Path

import pytest
from coding_agent_consumer.workspace.sandbox import Machine, plan_view

USR, ETC, OPT = (Path("/", name) for name in ("usr", "etc", "opt"))
LINKS = {
    Path("/bin"): Path("/usr/bin"),
    Path("/etc/resolv.conf"): Path("/run/systemd/resolve/stub-resolv.conf"),
}
FILES = {
    *(USR, ETC, OPT, Path("/bin"), Path("/root"), Path("/home"), Path("/run"), Path("/tmp"), Path("/var")),
    Path("/root/.pyenv/versions/3.11"),
    Path("/etc/coding-agent"),
    Path("/etc/coding-agent/config.yaml"),
    Path("/opt/app"),
    Path("/opt/app/python"),
    Path("/opt/app/python/secret"),
    Path("/run/systemd/resolve/stub-resolv.conf"),
    Path("/usr/lib/python3"),
}
MACHINE = Machine(
    exists=FILES.__contains__, is_link=LINKS.__contains__, real=lambda path: LINKS.get(path, path)
)
STUB = ("bind", "/run/systemd/resolve/stub-resolv.conf")
SYSTEM = [("link", "/bin"), ("bind", "/etc"), ("bind", "/opt"), ("bind", "/usr")]


@pytest.mark.parametrize(
    ("readable", "hidden", "expected"),
    [
        ([], [], [*SYSTEM, STUB]),
        (["/root/.pyenv/versions/3.11"], ["/root"], [*SYSTEM, ("bind", "/root/.pyenv/versions/3.11"), STUB]),
        (["/usr/lib/python3", "/usr"], [], [*SYSTEM, STUB]),
        ([], ["/etc/coding-agent/config.yaml"], [*SYSTEM, ("mask", "/etc/coding-agent/config.yaml"), STUB]),
        ([], ["/home", "/nowhere", "/"], [*SYSTEM, STUB]),
        (["/", "relative", "/nowhere"], [], [*SYSTEM, STUB]),
        (
            ["/opt/app/python"],
            ["/opt/app", "/opt/app/python/secret"],
            [
                *SYSTEM,
                ("mask", "/opt/app"),
                ("bind", "/opt/app/python"),
                ("mask", "/opt/app/python/secret"),
                STUB,
            ],
        ),
    ],
)
def test_only_programs_and_what_is_asked_for(
    readable: list[str], hidden: list[str], expected: list[tuple[str, str]]
) -> None:
    steps = plan_view(map(Path, readable), map(Path, hidden), MACHINE)
    assert sorted((step.action.value, str(step.path)) for step in steps) == sorted(expected)
    done: set[Path] = set()
    for step in steps:
        assert not any(step.path in path.parents for path in done), "parents come first"
        done.add(step.path)
