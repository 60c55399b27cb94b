"""The binary, which is built once into the cache, with the files that it reads at run time."""

from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.cluster import build
from coding_agent_testbed.gitea.errors import GiteaError

_PART = "gitea"
BUILD_TIME = "about 7 minutes of processor time"
HOW_TO_BUILD = (
    "Gitea is not in the cache of built programs. `make gitea` builds it once, from its Go module, in"
    f" {BUILD_TIME}."
)


@dataclass(frozen=True)
class Program:
    """The paths of the binary, and of the folder with its templates, translations and images."""

    binary: Path
    static: Path


def find() -> Program:
    """Return the program if it is in the cache.

    Raises:
        GiteaError: it was not built yet; the message says how to build it.
    """
    found = build.built(_PART)
    if found is None:
        raise GiteaError(HOW_TO_BUILD)
    return Program(found, found.parent / build.DATA)


def prepare() -> Program:
    """Return the program, and build it if it is not in the cache.

    Raises:
        coding_agent_testbed.cluster.errors.BuildError: Go is missing, or the compiler failed.
    """
    binary = build.binaries([_PART])[_PART]
    return Program(binary, binary.parent / build.DATA)
