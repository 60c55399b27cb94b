"""What a workspace in its own namespaces can see: an allowlist, as a pure plan of mounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "nix", "sys")
"""Top-level folders with programs and their settings; nothing else of the machine is there.

Not there, among others: home folders, `/root`, `/run` and `/var` with sockets and mounted secrets, `/tmp`,
`/srv`, `/mnt`, and wherever the agent was installed or keeps its state.
"""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Action(Enum):
    """What to do at a place of the new root."""

    BIND = "bind"
    """Show the machine's file or folder, read-only."""
    LINK = "link"
    """Make the same symbolic link."""
    MASK = "mask"
    """Show an empty folder, or an empty file."""


@dataclass(frozen=True)
class Step:
    """One step; `path` is absolute, the same in the machine's root and in the new one."""

    action: Action
    path: Path


@dataclass(frozen=True)
class Machine:
    """What the plan must know of the machine's files.

    Attributes:
        exists: whether a path is there.
        is_link: whether it is a symbolic link.
        real: the path with all links followed.
    """

    exists: Callable[[Path], bool]
    is_link: Callable[[Path], bool]
    real: Callable[[Path], Path]


def plan_view(readable: Iterable[Path], hidden: Iterable[Path], machine: Machine) -> list[Step]:
    """The steps that make the view, parents before what is below them.

    Args:
        readable: what is needed beside the system's folders: the Python installation, toolchains.
        hidden: folders and files of the agent that must not be seen even where they lie in a folder that can
            be; a readable path below a hidden one is seen, a hidden path below a readable one is not.
        machine: the files.
    """
    root = Path("/")
    steps: dict[Path, Action] = {}
    for name in SYSTEM:
        path = root / name
        if machine.is_link(path):
            steps[path] = Action.LINK
        elif machine.exists(path):
            steps[path] = Action.BIND
    wanted = [path for path in readable if path.is_absolute() and path != root]
    # The resolver's file is often a link out of /etc: into /run, which is not shown.
    resolver = machine.real(Path("/etc/resolv.conf"))
    for path in [*wanted, resolver]:
        if machine.exists(path):
            steps[machine.real(path)] = Action.BIND
    for path in hidden:
        real = machine.real(path)
        if machine.exists(real) and real != root:
            steps[real] = Action.MASK
    return _without_needless(sorted((Step(action, path) for path, action in steps.items()), key=_depth))


def _depth(step: Step) -> tuple[int, Path]:
    return len(step.path.parts), step.path


def _without_needless(steps: list[Step]) -> list[Step]:
    """Leave out what its nearest planned parent does already: a bind below a bind, a mask below nothing."""
    kept: list[Step] = []
    for step in steps:
        above = [other for other in kept if other.path in step.path.parents]
        shown = bool(above) and above[-1].action is Action.BIND
        if step.action is Action.LINK or (step.action is Action.BIND) != shown:
            kept.append(step)
    return kept
