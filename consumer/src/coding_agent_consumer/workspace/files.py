"""A workspace's folders, and operations on regular files below its tree, which are limited in size."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace.framing import MAX_TEXT, RequestError

STANDARD_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
FILE_SECONDS = 30.0
"""One operation on files may take this long."""
_MAX_LINES = 2000
"""The most lines of one answer."""
_MAX_LINE = 2000
"""The most characters of one line in an answer."""
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "nix", "sys")
"""Top-level folders with programs and their settings; the rest of the machine is not visible.

Among others, these are not visible: home folders, `/root`, `/run` and `/var` with sockets and mounted
secrets, `/tmp`, `/srv`, `/mnt`, and the folders of the agent's program and state.
"""


@dataclass(frozen=True)
class WorkspaceFolders:
    """The folders of a workspace, as the workspace program sees them; `root` contains the others."""

    root: Path
    tmp: Path

    @staticmethod
    def below(root: Path, *, private_tmp: bool = False) -> WorkspaceFolders:
        """Return the folders below a root; with `private_tmp` the workspace has its own `/tmp`."""
        return WorkspaceFolders(root, Path("/tmp") if private_tmp else root / "tmp")  # noqa: S108 - a mount of our own

    @property
    def tree(self) -> Path:
        """The checkout in which commands run."""
        return self.root / "tree"

    @property
    def home(self) -> Path:
        """The commands' HOME. It is outside the tree, so that no patch contains what tools write there."""
        return self.root / "home"

    @property
    def git(self) -> Path:
        """The repository with the seeded commit; commands use the tree's own `.git`."""
        return self.root / "git"

    @property
    def seeded(self) -> Path:
        """A copy of the repository's configuration, which exists once seeding is complete."""
        return self.root / "seeded"

    def make(self) -> None:
        """Create the folders with access for this user only."""
        for folder in (self.tree, self.home, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def command_environment(
    folders: WorkspaceFolders, search_path: str, inherited: Mapping[str, str], keep: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return a command's environment: fixed variables, and those of the workspace program to keep.

    Args:
        inherited: the environment of the workspace program.
        keep: names of variables to copy from it, e.g. `JAVA_HOME` in a toolchain image; `*`: all.
    """
    fixed = {
        "PATH": search_path,
        "HOME": str(folders.home),
        "TMPDIR": str(folders.tmp),
        "USER": "coding-agent",
        "LOGNAME": "coding-agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "coding agent",
        "GIT_AUTHOR_EMAIL": "coding-agent@localhost",
        "GIT_COMMITTER_NAME": "coding agent",
        "GIT_COMMITTER_EMAIL": "coding-agent@localhost",
    }
    names = inherited if "*" in keep else [name for name in keep if name in inherited]
    return {**{name: inherited[name] for name in names}, **fixed}


def usable_path(candidates: Iterable[str]) -> str:
    """Return a PATH of the folders that exist, without repetitions, in their order."""
    seen: dict[str, None] = {}
    for folder in [*candidates, *STANDARD_PATH]:
        if folder.startswith("/") and os.access(folder, os.X_OK) and os.path.isdir(folder):
            seen.setdefault(folder)
    return ":".join(seen)


def remove(folder: Path) -> None:
    """Remove a folder and its contents. Links are not followed. A part that cannot be removed stays.

    This runs `rm`, because `shutil.rmtree` is recursive: before Python 3.13, it ends with a RecursionError at
    about 1,000 nested folders.
    """
    _run("rm", "-rf", "--", str(folder))
    if folder.exists():
        # A command can create folders that even their owner cannot list, nor can root without capabilities.
        _run("chmod", "-R", "u+rwX", "--", str(folder))
        _run("rm", "-rf", "--", str(folder))


def move_untracked(before: Path, after: Path) -> None:
    """Move what only `before` has into `after`, a new checkout of the same repository.

    What both have stays as `after` has it, and so does `.git`. Links are not followed.

    Raises:
        OSError: something cannot be moved.
    """
    waiting = [] if before.is_symlink() or not before.is_dir() else [(str(before), str(after))]
    while waiting:
        old, new = waiting.pop()
        os.chmod(old, 0o700)  # a command can create folders that even their owner cannot list
        for name in os.listdir(old):
            source, target = os.path.join(old, name), os.path.join(new, name)
            if not os.path.lexists(target):
                _move(source, target)
            elif _is_folder(source) and _is_folder(target) and target != os.path.join(after, ".git"):
                waiting.append((source, target))


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _move(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except PermissionError:
        # The parent is an entry of the folder that moves, so the folder must be writable.
        mode = stat.S_IMODE(os.lstat(source).st_mode)
        os.chmod(source, mode | 0o700)
        os.rename(source, target)
        os.chmod(target, mode)


def _run(*command: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, check=False, capture_output=True, timeout=120)


def cut_end(text: str, limit: int) -> str:
    """Return the first `limit` characters of a text, with a mark if it was cut."""
    return text if len(text) <= limit else text[:limit] + "…"


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupt the block when its time is over. Use it in the main thread, without another alarm.

    Raises:
        TimeoutError: the block was interrupted.
    """

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, whatever a command has put in its place.

    The name is replaced and never opened: opening a FIFO would wait for a reader, and a link would be
    followed.

    Raises:
        OSError: the file cannot be written, e.g. because there is a folder of that name.
    """
    descriptor, name = tempfile.mkstemp(prefix=".write-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def special_files(folder: Path, *, names: Collection[str] | None = None) -> Iterator[str]:
    """Yield FIFOs, sockets and devices below a folder: a program that opens a FIFO would wait forever.

    Args:
        names: yield only files with these names; links to special files then count too.
    """
    waiting = [str(folder)]  # a list and no recursion, so that deeply nested folders do no harm
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif names is None:
                    if not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                        yield entry.path
                elif entry.name in names and not entry.is_file() and os.path.exists(entry.path):
                    yield entry.path


def resolve(tree: Path, path: str) -> Path:
    """Return the real path, with links followed; it must be below the tree.

    No command runs during a file operation, so nothing can be swapped in between.

    Raises:
        RequestError: the path leaves the tree.
    """
    if "\0" in path or len(path) > 4096:
        raise RequestError("The path is not valid.")
    root = os.path.realpath(tree)
    try:
        real = os.path.realpath(os.path.join(root, path))
    except OSError as error:
        raise RequestError(f"{cut_end(path, 200)}: {error.strerror}.") from error
    if real != root and not real.startswith(root + os.sep):
        raise RequestError(
            f"{cut_end(path, 200)} is outside the repository; only paths below its root can be used."
        )
    return Path(real)


def read_bytes(tree: Path, path: str) -> bytes:
    """Return a regular file's content.

    Raises:
        RequestError: the file does not exist, is not a regular file, or is too large.
    """
    shown = cut_end(path, 200)
    try:
        # O_NONBLOCK: opening a FIFO must not block.
        descriptor = os.open(resolve(tree, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RequestError(f"There is no file {shown}.") from error
    except OSError as error:
        raise RequestError(f"{shown}: {error.strerror}.") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise RequestError(f"{shown} is a folder; use list_files.")
        if not stat.S_ISREG(mode):
            raise RequestError(f"{shown} is not a regular file.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_TEXT + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_TEXT:
        raise RequestError(
            f"{shown} is larger than {MAX_TEXT // 2**20} MiB; use a command to read parts of it."
        )
    return data


def read_lines(tree: Path, path: str, start_line: int, line_count: int | None, limit: int) -> str:
    """Return numbered lines of a text file, with a note if lines were omitted.

    Args:
        start_line: the first line; the file's first line is 1.
        line_count: how many lines; `None`: as many as possible.
        limit: the most characters of the answer.
    """
    data = read_bytes(tree, path)
    # git and grep tell binary files by a NUL near the beginning too.
    if b"\0" in data[:8192]:
        raise RequestError(f"{cut_end(path, 200)} is a binary file of {len(data)} bytes.")
    lines = data.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        return "(the file is empty)"
    if start_line < 1 or start_line > len(lines):
        raise RequestError(f"{cut_end(path, 200)} has {len(lines)} lines; there is no line {start_line}.")
    wanted = lines[start_line - 1 :][
        : _MAX_LINES if line_count is None else max(1, min(line_count, _MAX_LINES))
    ]
    shown: list[str] = []
    size = 0
    for number, line in enumerate(wanted, start_line):
        text = f"{number:6}\t{cut_end(line.removesuffix(chr(13)), _MAX_LINE)}"
        size += len(text) + 1
        if size > limit and shown:
            break
        shown.append(text)
    rest = len(lines) - (start_line - 1 + len(shown))
    if rest > 0:
        shown.append(f"[{rest} more lines; continue from line {start_line + len(shown)}]")
    return "\n".join(shown)


def write(tree: Path, path: str, data: bytes) -> None:
    """Create or replace a file, and create its parent folders; an existing file keeps its mode.

    Raises:
        RequestError: the file cannot be written.
    """
    target = resolve(tree, path)
    shown = cut_end(path, 200)
    if target == Path(os.path.realpath(tree)) or target.is_dir():
        raise RequestError(f"{shown} is a folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(target.stat().st_mode) if target.is_file() else 0o644
        replace_file(target, data, mode)
    except OSError as error:
        raise RequestError(f"{shown} cannot be written: {error.strerror}.") from error


def edit(tree: Path, path: str, old: bytes, new: bytes) -> None:
    """Replace the only occurrence of a text. A file with CRLF line ends keeps them.

    Raises:
        RequestError: the text does not occur, or occurs more than once.
    """
    shown = cut_end(path, 200)
    if not old:
        raise RequestError("The text to replace is empty.")
    data = read_bytes(tree, path)
    if data.count(old) == 0 and b"\r\n" in data and b"\r\n" not in old:
        old, new = old.replace(b"\n", b"\r\n"), new.replace(b"\n", b"\r\n")
    count = data.count(old)
    if count == 0:
        raise RequestError(f"The text does not occur in {shown}; read the file and copy the text exactly.")
    if count > 1:
        raise RequestError(f"The text occurs {count} times in {shown}; include more of the lines around it.")
    write(tree, path, data.replace(old, new))


def python_installation() -> list[Path]:
    """Return the folders that this interpreter must be able to read; a command's `python3` is in them."""
    return [Path(path) for path in dict.fromkeys((sys.base_prefix, sys.base_exec_prefix))]
