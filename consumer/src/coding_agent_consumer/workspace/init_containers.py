"""Copy files in a pod's init containers, without secrets, before the workspace starts.

    python -m coding_agent_consumer.workspace.init_containers program FOLDER
    python -m coding_agent_consumer.workspace.init_containers packages FROM TO

`program` copies the workspace program for an image that is not ours: this interpreter, its standard library,
git, their shared libraries and the dynamic loader. Started through that loader, the program needs no Python,
no git and no particular C library in the image; only the commands need `/bin/sh`.

`packages` copies a repository's shared package cache for an attempt that may not write to it. The folder of a
package manager is copied completely or not at all, because a part of an unpacked package could pass for the
package. It always exits with 0, because without a copy, packages are downloaded.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The pod starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

LOADER, LIBRARIES, PYTHON, GIT = "ld.so", "lib", "bin/python3", "git/git"
_NOT_COPIED = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "venv"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*", "sqlite3", "__phello__", "*.a"),
)
_LOADER_SECONDS = 60.0
_NEEDED = re.compile(r"^\s*([^\s/]+) => (/\S+) \(0x", re.MULTILINE)
"""A line of the loader's `--list`: a library's name and its file. glibc 2.41 also lists the loader, by its
path; the loader is copied separately."""
_SERVICES = ("upload-pack", "receive-pack", "upload-archive")
"""Programs that git starts by name, also between two local repositories."""
FOLDERS = (
    *("pip", "npm/_cacache", "yarn", "uv", "maven"),
    # Only the downloads are copied: unpacked files are larger, and unpacking may not have finished.
    *("go/cache/download", "cargo/registry/index", "cargo/registry/cache"),
)
"""Package managers rename complete files into these folders, so a copy made while they work is sound."""
_BYTES = 1024**3
_FILES = 100_000
"""Limits for the folder of one package manager."""
_SECONDS = 80.0
"""Time for the folders of all package managers together. The attempt waits for the copy."""
_DEPTH = 100
"""The most nested folders. Whoever writes to the cache chooses the depth, and Python's stack is finite."""


class CannotCopyError(Exception):
    """A needed file is missing; the message says which."""


def copy_program(target: Path) -> None:
    """Copy the workspace program and the files that it needs. The call can be repeated.

    Raises:
        CannotCopyError: git or the loader cannot be found.
    """
    # The workspace runs as another user, who must be able to read the copy.
    os.umask(0o022)
    git = shutil.which("git")
    if git is None:
        raise CannotCopyError("git is not installed")
    loader = loaded_loader(Path("/proc/self/maps").read_text(encoding="utf-8"))
    modules = _extension_modules()
    python = Path(os.path.realpath(sys.executable))
    _copy(loader, target / LOADER)
    _copy(python, target / PYTHON)
    _copy(Path(os.path.realpath(git)), target / GIT)
    for program in (python, Path(git), *modules):
        listing = subprocess.run(
            # The loader itself says what it would load; ldd would run the program.
            [loader, "--list", program],
            capture_output=True,
            text=True,
            timeout=_LOADER_SECONDS,
            check=True,
        )
        for name, file in needed(listing.stdout).items():
            _copy(file, target / LIBRARIES / name)
    library = target / f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(
        sysconfig.get_path("stdlib"), library, ignore=_NOT_COPIED, dirs_exist_ok=True, symlinks=False
    )
    for module in modules:
        _copy(module, library / "lib-dynload" / module.name)
    here = Path(__file__).parent
    for source in (here.parent / "__init__.py", *here.glob("*.py")):
        _copy(source, library / here.parent.name / source.relative_to(here.parent))
    _write_git(target)


def loaded_loader(maps: str) -> Path:
    """Return the dynamic loader that the text of /proc/PID/maps shows.

    Raises:
        CannotCopyError: the interpreter is statically linked, or its loader has an unknown name.
    """
    for line in maps.splitlines():
        file = line.partition("/")[2]
        if re.match(r"ld(64)?[-.]", file.rpartition("/")[2]):
            return Path("/" + file)
    raise CannotCopyError("the dynamic loader of this interpreter cannot be found")


def needed(listing: str) -> dict[str, Path]:
    """Return the libraries in the output of the loader's `--list`, by the requested name."""
    return {name: Path(file) for name, file in _NEEDED.findall(listing)}


def _extension_modules() -> list[Path]:
    """Return the files of all extension modules that the program loads."""
    import coding_agent_consumer.workspace.__main__  # noqa: F401, PLC0415 - to see which modules it loads

    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted(Path(file) for file in files if file and ".so" in Path(file).name)


def _write_git(target: Path) -> None:
    """Write scripts for `git` and its services that start the copied git through the copied loader."""
    (target / "git-templates").mkdir(exist_ok=True)
    start = (
        f"export GIT_EXEC_PATH={target}/git-core GIT_TEMPLATE_DIR={target}/git-templates\n"
        f"exec {target}/{LOADER} --inhibit-cache --library-path {target}/{LIBRARIES} {target}/{GIT}"
    )
    _write_script(target / "tools" / "git", f'{start} "$@"\n')
    _write_script(target / "git-core" / "git", f'{start} "$@"\n')
    for service in _SERVICES:
        _write_script(target / "git-core" / f"git-{service}", f'{start} {service} "$@"\n')


def _write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A program that runs cannot be written over; its file can be replaced.
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


class TooLargeError(Exception):
    """The rest of the copy would exceed a limit; the message says which."""


@dataclass
class Limit:
    """The bytes, files and time that are left for the copy.

    Attributes:
        until: the end of the copy by the monotonic clock.
    """

    bytes: int
    files: int
    until: float

    def take(self, size: int) -> None:
        self.bytes -= size
        self.files -= 1
        # The cache of a large repository must not use up the attempt's time or disk.
        if self.bytes < 0 or self.files < 0 or time.monotonic() > self.until:
            raise TooLargeError("it is too large")


def _copy_tree(source: Path, target: Path, limit: Limit, depth: int = _DEPTH) -> None:
    """Copy a tree of folders, files and symbolic links as they are; entries that vanish are left out.

    Args:
        depth: how many further levels of folders may be copied.

    Raises:
        TooLargeError: the limit is reached.
        OSError: the copy cannot be written.
    """
    if depth == 0:
        raise TooLargeError("its folders are nested too deeply")
    target.mkdir(parents=True)
    with os.scandir(source) as entries:
        for entry in entries:
            to = target / entry.name
            try:
                status = entry.stat(follow_symlinks=False)
                limit.take(status.st_size)
                if stat.S_ISLNK(status.st_mode):
                    to.symlink_to(os.readlink(entry.path))
                elif stat.S_ISDIR(status.st_mode):
                    _copy_tree(Path(entry.path), to, limit, depth - 1)
                elif stat.S_ISREG(status.st_mode):
                    shutil.copy2(entry.path, to, follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue


def _is_real_folder(root: Path, name: str) -> bool:
    """Whether the path below the root is a folder without a symbolic link on the way to it."""
    path = root
    for part in Path(name).parts:
        path /= part
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                return False
        except OSError:
            return False
    return True


def copy_packages(source: Path, target: Path) -> None:
    """Copy every package manager's folder that fits."""
    for name in FOLDERS:
        part = target / ".part"
        limit = Limit(_BYTES, _FILES, time.monotonic() + _SECONDS / len(FOLDERS))
        try:
            if not _is_real_folder(source, name):
                continue
            _copy_tree(source / name, part, limit)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            # The folder appears only when it is whole: package managers trust what they find.
            part.rename(target / name)
            print(f"copied {name}: {_FILES - limit.files} entries, {(_BYTES - limit.bytes) >> 20} MiB")
        except (TooLargeError, OSError) as error:
            print(f"left out {name}: {error}")
        finally:
            shutil.rmtree(part, ignore_errors=True)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["program", folder]:
            try:
                copy_program(Path(folder))
            except (CannotCopyError, OSError, subprocess.SubprocessError) as error:
                print(f"Cannot copy the workspace program: {error}", file=sys.stderr)
                return 1
        case ["packages", source, target]:
            copy_packages(Path(source), Path(target))
        case _:
            print("usage: init_containers (program FOLDER | packages FROM TO)", file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
