"""The binary, which is built once into the cache, with the files that it reads at run time."""

from dataclasses import dataclass
from pathlib import Path

from coding_agent_cluster import build

from coding_agent_gitea.errors import GiteaError

_PART = "gitea"
HOW_TO_BUILD = (
    "Gitea is not in the cache of built programs. `make gitea` builds it once, from its Go module, in about"
    " 7 minutes of processor time."
)


@dataclass(frozen=True)
class Program:
    """Where the binary is, and the folder with its templates, translations and images."""

    binary: Path
    static: Path


def find() -> Program:
    """The program that was built before.

    Raises:
        GiteaError: it was not; the message says how to build it.
    """
    found = build.built(_PART)
    if found is None:
        raise GiteaError(HOW_TO_BUILD)
    return Program(found, found.parent / build.DATA)


def prepare() -> Program:
    """The program; it is built when the cache lacks it.

    Raises:
        coding_agent_cluster.errors.BuildError: Go is missing, or the compiler failed.
    """
    binary = build.binaries([_PART])[_PART]
    return Program(binary, binary.parent / build.DATA)
