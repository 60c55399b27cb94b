"""Building parts once: into the cache, keyed by version and lock file, safe to interrupt and to run twice."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.cluster import apt, go, paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.errors import BuildError
from coding_agent_testbed.cluster.gomod import module_folder, module_source, required_version
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.parts import MODULES, Module, Part, link_flags, part
from coding_agent_testbed.cluster.progress import step

# The slowest (Kubernetes, all of it) takes five minutes on two idle cores; machines are shared.
_BUILD_TIMEOUT_S = 3600

# No debugging information: nobody debugs these binaries, and compiling takes a tenth less.
_COMPILER_FLAGS = "all=-dwarf=false"

DATA = "data"
"""The folder beside a module's binaries with what they read at run time."""


@dataclass(frozen=True)
class Source:
    """A module as it lies on disk: where, at which version, and where its binaries go."""

    module: Module
    folder: Path
    version: str
    output: Path


def source(module: Module) -> Source:
    """Find the module's pin and the cache folder that belongs to exactly that pin and these flags."""
    folder = module_folder(module)
    version = required_version((folder / "go.mod").read_text(), module.anchor)
    digest = hashlib.sha256()
    for file in sorted([folder / "go.mod", folder / "go.sum", *folder.rglob("*.go")]):
        digest.update(file.read_bytes())
    digest.update(f"{module} {_COMPILER_FLAGS} {link_flags(module, version)}".encode())
    digest.update(" ".join(module.data).encode())
    key = f"{version}-{digest.hexdigest()[:12]}"
    return Source(module, folder, version, paths.cache_root() / "bin" / module.name / key)


def binaries(names: Iterable[str]) -> dict[str, Path]:
    """The paths of the named parts; those that the cache lacks are built first.

    Raises:
        BuildError: a name is unknown, Go is missing, or the compiler failed.
    """
    wanted = [part(name) for name in dict.fromkeys(names)]
    found: dict[str, Path] = {}
    for module_name in dict.fromkeys(p.module for p in wanted):
        group = [p for p in wanted if p.module == module_name]
        src = source(MODULES[module_name])
        if any(not (src.output / p.name).exists() for p in group):
            _build(src, group)
        found |= {p.name: src.output / p.name for p in group}
    return found


def built(name: str) -> Path | None:
    """Where the named part is in the cache; None where it was not built yet.

    Raises:
        BuildError: the name is unknown.
    """
    path = source(MODULES[part(name).module]).output / name
    return path if path.exists() else None


def build_command(src: Source, packages: list[str], output: str) -> list[str]:
    """The ``go build`` command line for packages of one module."""
    command = [go.program(), "build", "-trimpath", "-gcflags", _COMPILER_FLAGS]
    command += ["-ldflags", link_flags(src.module, src.version)]
    if src.module.tags:
        command += ["-tags", src.module.tags]
    return [*command, "-o", output, *packages]


def build_environment(module: Module, environ: dict[str, str]) -> dict[str, str]:
    """The environment of a build: the caller's (proxy settings), with what would change the result fixed.

    ``GOGC=400`` lets the compiler collect garbage less often: faster by a fifth, for some 100 MB more.
    """
    return environ | {
        "CGO_ENABLED": "1" if module.cgo else "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
        "GOGC": environ.get("GOGC", "400"),
    }


def _build(src: Source, group: list[Part]) -> None:
    with locked(src.output.parent / "build.lock"):
        missing = [p for p in group if not (src.output / p.name).exists()]
        if not missing:
            return
        if src.module.cgo:
            apt.ensure({"cc": "gcc", "pkg-config": "pkg-config"})
            apt.ensure_files({"/usr/include/seccomp.h": "libseccomp-dev"})
        # Whoever made a leftover is dead: we hold the lock.
        for leftover in src.output.parent.glob("building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = src.output.parent / f"building-{os.getpid()}"
        scratch.mkdir(parents=True)
        names = ", ".join(p.name for p in missing)
        try:
            with step(f"build {src.module.name} {src.version} ({names})"):
                _compile(src, missing, scratch)
            src.output.mkdir(parents=True, exist_ok=True)
            _copy_data(src)
            for p in missing:
                (scratch / p.name).rename(src.output / p.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _copy_data(src: Source) -> None:
    """Copy what the binaries read at run time; call this before a binary is there for others to find."""
    if not src.module.data:
        return
    anchor = module_source(src.module)
    for name in src.module.data:
        target = src.output / DATA / name
        shutil.rmtree(target, ignore_errors=True)  # of a build that was interrupted
        shutil.copytree(anchor / name, target, copy_function=shutil.copyfile)
        for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
            folder.chmod(0o755)  # Go's module cache is read-only


def _compile(src: Source, group: list[Part], scratch: Path) -> None:
    """Compile together what Go names as we do (the linkers run side by side), the rest one by one."""
    together = [p for p in group if p.package.rsplit("/", 1)[-1] == p.name]
    if together:
        _run(src, build_command(src, [p.package for p in together], f"{scratch}/"))
    for p in group:
        if p not in together:
            _run(src, build_command(src, [p.package], str(scratch / p.name)))


def _run(src: Source, command: list[str]) -> None:
    again(f"build {src.module.name}", lambda: _go_build(src, command))


def _go_build(src: Source, command: list[str]) -> None:
    environment = build_environment(src.module, dict(os.environ))
    try:
        run = subprocess.run(
            command,
            cwd=src.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"building {src.module.name} took more than {_BUILD_TIMEOUT_S} s") from error
    if run.returncode:
        raise BuildError(f"building {src.module.name} {src.version} failed:\n{run.stderr[-3000:]}")
