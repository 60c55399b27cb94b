"""Isolate the workspace: own namespaces and root, no capabilities, an unprivileged user, a limited view.

Call these functions in a freshly forked process with one thread. They use only system calls and no other
program. `plan_view` is a pure function that turns an allowlist into a plan of mounts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.files import SYSTEM, WorkspaceFolders

INSIDE = Path("/workspace")
"""The workspace's root inside its mount namespace."""
_NO_MORE_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_MAX_PROCESSES = 4096
"""The most processes and threads of the workspace's user; others of the same user count too."""


def enter_namespaces(*, own_user: bool) -> None:
    """Leave the machine's mount and IPC namespaces; children get their own PID namespace.

    The network stays shared: tools install packages, and tests talk to localhost. With `own_user` the process
    also enters a user namespace with the same ids, which is needed without CAP_SYS_ADMIN.

    Raises:
        OSError: the kernel refuses.
    """
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC
    if own_user:
        linux.enter_user_namespace(flags)
    else:
        linux.unshare(flags)


def enter_view(
    folders: WorkspaceFolders, readable: Iterable[Path], hidden: Iterable[Path]
) -> WorkspaceFolders:
    """As PID 1 of the new namespaces, switch to a root with only what `plan_view` allows and the workspace.

    Return the workspace's folders as seen from inside.

    Raises:
        OSError: the kernel refuses.
    """
    machine = FileSystem(
        exists=lambda path: path.exists(),
        is_link=os.path.islink,
        real=lambda path: Path(os.path.realpath(path)),
    )
    steps = plan_view(readable, hidden, machine)
    # Otherwise our mounts would appear on the machine too.
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    new = folders.root / "mnt"
    new.mkdir(mode=0o700, exist_ok=True)
    safe = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", str(new), "tmpfs", safe, "mode=0755,size=16m")
    for step in steps:
        _apply(step, new)
    # Only harmless devices are shown: the machine's /dev has its disks.
    _make_devices(new)
    (new / "proc").mkdir()
    linux.mount("proc", str(new / "proc"), "proc", safe | linux.MS_NOEXEC)
    _make_read_only(new)
    # This comes after everything else is read-only.
    _bind(folders.root, new / INSIDE.relative_to("/"), 0)
    for name in ("tmp", "var/tmp"):
        _bind(folders.tmp, new / name, 0)
    for name in ("home", "root", "run", "mnt", "srv"):
        (new / name).mkdir(exist_ok=True)
    _remount_read_only(new)
    os.chdir(new)
    linux.pivot_root_here()
    os.chdir(INSIDE)
    return WorkspaceFolders.below(INSIDE, private_tmp=True)


def drop_rights(uid: int | None, *, capabilities: bool) -> None:
    """Give up all rights for good: capabilities, set-user-ID programs, ptrace access, and the user.

    Args:
        uid: user and group to switch to; `None`: keep the current user.
        capabilities: whether this process has any capabilities.

    Raises:
        OSError: the kernel refuses.
    """
    with contextlib.suppress(OSError):
        # When memory is short, the kernel kills the workspace before the agent.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    # A core file has the memory of the process, and takes disk space.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if capabilities:
        linux.drop_bounding_set()
    if uid is not None:
        # Groups are dropped while we still may, and before the user.
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if _enter_last_user_namespace():
        linux.drop_bounding_set()  # once more: a new user namespace gives all capabilities in it
        capabilities = True
    if capabilities:
        linux.drop_capabilities()
    linux.forbid_new_privileges()
    linux.forbid_inspection()
    if os.geteuid() == 0:
        return  # the kernel does not limit root's processes
    # Without a user namespace, or before Linux 5.14, the user's other processes count too.
    limit = _MAX_PROCESSES
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _enter_last_user_namespace() -> bool:
    """Enter a user namespace below which there can be no other. Return whether the kernel allows this.

    In a namespace of its own, a command has all capabilities, and with them reaches much more of the kernel.
    The limit counts for all namespaces below the one in which it is written (user_namespaces(7)), so we enter
    one, as the commands' user. If the kernel refuses one to us, it refuses one to the commands too. Linux has
    the limit wherever it has user namespaces. gVisor has namespaces without it; there, a command in one still
    reaches only gVisor's kernel, and not the machine's.
    """
    if not _NO_MORE_NAMESPACES.exists():
        return False
    try:
        linux.enter_user_namespace()
    except OSError:
        return False
    _NO_MORE_NAMESPACES.write_text("0", encoding="ascii")
    return True


def _apply(step: MountStep, new: Path) -> None:
    target = new / step.path.relative_to("/")
    if step.action is Action.LINK:
        target.symlink_to(os.readlink(step.path))
    elif step.action is Action.BIND:
        _bind(step.path, target, linux.MS_REC)
    elif target.is_dir():
        linux.mount("tmpfs", str(target), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    elif target.exists():
        linux.mount("/dev/null", str(target), None, linux.MS_BIND)


def _bind(source: Path, target: Path, flags: int) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir()
        else:
            target.touch()
    linux.mount(str(source), str(target), None, linux.MS_BIND | flags)


def _make_devices(new: Path) -> None:
    devices = new / "dev"
    devices.mkdir()
    for name in DEVICES:
        source = Path("/dev", name)
        if source.exists() and stat.S_ISCHR(source.stat().st_mode):
            _bind(source, devices / name, 0)
    for name, to in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (devices / name).symlink_to(to)
    (devices / "shm").mkdir()
    linux.mount(
        "tmpfs", str(devices / "shm"), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777,size=256m"
    )
    (devices / "pts").mkdir()
    with contextlib.suppress(OSError):  # commands can do without terminals
        linux.mount(
            "devpts", str(devices / "pts"), "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620"
        )
        (devices / "ptmx").symlink_to("pts/ptmx")


def _make_read_only(new: Path) -> None:
    """Remount everything that is mounted below the new root so far, except /dev and /proc."""
    keep = (str(new / "dev"), str(new / "proc"))
    for line in (
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    ):
        # proc(5): the fifth field is the mount point, with \ooo for white space and backslashes.
        path = line.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        path = path.encode("latin-1").decode("utf-8", "surrogateescape")
        if path.startswith(f"{new}/") and not path.startswith(keep):
            _remount_read_only(Path(path))


def _remount_read_only(path: Path) -> None:
    # In a user namespace, a mount must keep its flags (mount_namespaces(7), locked).
    has = os.statvfs(path).f_flag
    locked = {
        os.ST_NOSUID: linux.MS_NOSUID,
        os.ST_NODEV: linux.MS_NODEV,
        os.ST_NOEXEC: linux.MS_NOEXEC,
        os.ST_NOATIME: 1024,
        os.ST_NODIRATIME: 2048,
        os.ST_RELATIME: 1 << 21,
    }
    flags = sum(flag for bit, flag in locked.items() if has & bit)
    linux.mount(
        "none", str(path), None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | flags
    )


DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Action(Enum):
    """The way in which a path appears in the new root."""

    BIND = "bind"
    """Show the machine's file or folder, read-only."""
    LINK = "link"
    """Make the same symbolic link."""
    MASK = "mask"
    """Show an empty folder, or an empty file."""


@dataclass(frozen=True)
class MountStep:
    """An action on a path, which is absolute, and the same on the machine and in the new root."""

    action: Action
    path: Path


@dataclass(frozen=True)
class FileSystem:
    """The plan's view of the machine's files; `real` follows all links of a path."""

    exists: Callable[[Path], bool]
    is_link: Callable[[Path], bool]
    real: Callable[[Path], Path]


def plan_view(readable: Iterable[Path], hidden: Iterable[Path], machine: FileSystem) -> list[MountStep]:
    """Return the steps that build the view, parents before children.

    Args:
        readable: paths in addition to the system's folders, such as the Python installation and toolchains.
        hidden: files and folders of the agent that must stay invisible, even inside a visible folder. A
            readable path below a hidden one is visible; a hidden path below a readable one is not.
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
    # The resolver's file is often a link from /etc to /run, which is not shown.
    resolver = machine.real(Path("/etc/resolv.conf"))
    for path in [*wanted, resolver]:
        if machine.exists(path):
            steps[machine.real(path)] = Action.BIND
    for path in hidden:
        real = machine.real(path)
        if machine.exists(real) and real != root:
            steps[real] = Action.MASK
    return _without_redundant(sorted((MountStep(action, path) for path, action in steps.items()), key=_depth))


def _depth(step: MountStep) -> tuple[int, Path]:
    return len(step.path.parts), step.path


def _without_redundant(steps: list[MountStep]) -> list[MountStep]:
    """Drop steps that change nothing: a bind below a bind, and a mask of something that is not shown."""
    kept: list[MountStep] = []
    for step in steps:
        above = [other for other in kept if other.path in step.path.parents]
        shown = bool(above) and above[-1].action is Action.BIND
        if step.action is Action.LINK or (step.action is Action.BIND) != shown:
            kept.append(step)
    return kept
