"""`python -m coding_agent_consumer.workspace.portable FOLDER`: the workspace program for any image.

It copies this interpreter, its standard library, git, their shared libraries and the dynamic loader. Started
through that loader, the program needs no Python, no git and no particular C library in the image; only the
commands need `/bin/sh`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LOADER, LIBRARIES, PYTHON, GIT = "ld.so", "lib", "bin/python3", "git/git"
_NOT_COPIED = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "venv"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*", "sqlite3", "__phello__", "*.a"),
)
_TIMEOUT = 60.0
_NEEDED = re.compile(r"^\s*([^\s/]+) => (/\S+) \(0x", re.MULTILINE)
"""A line of the loader's `--list`: a library's name and its file. glibc 2.41 lists the loader too, by its
path; it is copied separately."""
_SERVICES = ("upload-pack", "receive-pack", "upload-archive")
"""Programs that git starts by name, also between two local repositories."""


class CannotCopyError(Exception):
    """A needed file is missing; the message says which."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m coding_agent_consumer.workspace.portable FOLDER", file=sys.stderr)
        return 64
    try:
        copy_program(Path(arguments[0]))
    except (CannotCopyError, OSError, subprocess.SubprocessError) as error:
        print(f"Cannot copy the workspace program: {error}", file=sys.stderr)
        return 1
    return 0


def copy_program(target: Path) -> None:
    """Copy everything; repeating it gives the same result.

    Raises:
        CannotCopyError: git or the loader cannot be found.
    """
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
            [loader, "--list", program], capture_output=True, text=True, timeout=_TIMEOUT, check=True
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
    """The dynamic loader, from the text of /proc/PID/maps.

    Raises:
        CannotCopyError: the interpreter is linked statically, or its loader has an unknown name.
    """
    for line in maps.splitlines():
        file = line.partition("/")[2]
        if re.match(r"ld(64)?[-.]", file.rpartition("/")[2]):
            return Path("/" + file)
    raise CannotCopyError("the dynamic loader of this interpreter cannot be found")


def needed(listing: str) -> dict[str, Path]:
    """Libraries in the output of the loader's `--list`, by the requested name."""
    return {name: Path(file) for name, file in _NEEDED.findall(listing)}


def _extension_modules() -> list[Path]:
    """Files of all extension modules that the program loads."""
    import coding_agent_consumer.workspace.__main__  # noqa: F401, PLC0415 - to see which modules it loads

    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted(Path(file) for file in files if file and ".so" in Path(file).name)


def _write_git(target: Path) -> None:
    """`git` and its services as scripts that start it through the copied loader."""
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
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
