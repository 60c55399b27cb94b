"""Entering isolation: namespaces with a root of their own, no rights, an unprivileged user.

Called in a freshly forked process with one thread. Only the kernel's own calls are used, no further program.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.place import Place
from coding_agent_consumer.workspace.view import DEVICES, Action, Machine, Step, plan_view

INSIDE = Path("/workspace")
"""Where the workspace's root is seen in its own mount namespace."""
_MAX_PROCESSES = 4096
"""Processes and threads of the workspace's user, on top of what runs already where the user is shared."""


def enter_namespaces(*, own_user: bool) -> None:
    """Leave the machine's mount and IPC namespaces; children get a PID namespace of their own.

    The network stays shared: tools install packages, and tests talk to localhost.

    Args:
        own_user: in a user namespace too, in which we keep our own ids: for whoever is not root.

    Raises:
        OSError: the kernel does not let us.
    """
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC
    if not own_user:
        linux.unshare(flags)
        return
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(flags | linux.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def enter_view(place: Place, readable: Iterable[Path], hidden: Iterable[Path]) -> Place:
    """As PID 1 of the new namespaces: a root that holds only what `plan_view` allows, and the workspace.

    Returns:
        the workspace's folders as they are seen from inside.

    Raises:
        OSError: the kernel does not let us.
    """
    machine = Machine(
        exists=lambda path: path.exists(),
        is_link=os.path.islink,
        real=lambda path: Path(os.path.realpath(path)),
    )
    steps = plan_view(readable, hidden, machine)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    new = place.root / "mnt"
    new.mkdir(mode=0o700, exist_ok=True)
    safe = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", str(new), "tmpfs", safe, "mode=0755,size=16m")
    for step in steps:
        _apply(step, new)
    _make_devices(new)
    (new / "proc").mkdir()
    linux.mount("proc", str(new / "proc"), "proc", safe | linux.MS_NOEXEC)
    _make_read_only(new)
    for source, target in ((place.root, INSIDE), (place.tmp, Path("/tmp")), (place.tmp, Path("/var/tmp"))):  # noqa: S108
        _bind(source, new / target.relative_to("/"), 0)
    for name in ("home", "root", "run", "mnt", "srv"):
        (new / name).mkdir(exist_ok=True)
    _remount_read_only(new)
    os.chdir(new)
    linux.pivot_root_here()
    os.chdir(INSIDE)
    return Place.below(INSIDE, private_tmp=True)


def drop_rights(uid: int | None, *, capabilities: bool) -> None:
    """Give up every right for good: capabilities, set-user-ID programs, being looked into, and the user.

    Args:
        uid: user and group to become; `None`: stay who we are.
        capabilities: whether we have some to give up.

    Raises:
        OSError: one could not be given up.
    """
    with contextlib.suppress(OSError):
        # When memory is short, the workspace goes before the agent.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if capabilities:
        linux.drop_bounding_set()
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if capabilities:
        linux.drop_capabilities()
    linux.forbid_new_privileges()
    linux.forbid_inspection()
    _limit_processes()


def _limit_processes() -> None:
    if os.geteuid() == 0:
        return  # the kernel does not count root's
    # Before Linux 5.14, and without a namespace, the user's processes outside count as well.
    limit = _MAX_PROCESSES
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _apply(step: Step, new: Path) -> None:
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
    with contextlib.suppress(OSError):  # terminals are a convenience
        linux.mount(
            "devpts", str(devices / "pts"), "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620"
        )
        (devices / "ptmx").symlink_to("pts/ptmx")


def _make_read_only(new: Path) -> None:
    """Everything mounted below the new root so far, but for devices and processes."""
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
    # The flags a mount has must be given again, or a user namespace is refused (mount_namespaces(7), locked).
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


def python_installation() -> list[Path]:
    """What this interpreter needs to be readable, and what `python3` on a command's PATH is."""
    return [Path(path) for path in dict.fromkeys((sys.base_prefix, sys.base_exec_prefix))]
