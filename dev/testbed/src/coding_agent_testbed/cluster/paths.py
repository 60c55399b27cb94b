"""Where things are: the cache of built parts, the state of running clusters, the pinned Go modules."""

import os
from pathlib import Path

from coding_agent_testbed.cluster.errors import ClusterError

# Inside a sandbox, in memory of its own: sockets, for which a path has at most 107 bytes (unix(7)).
SOCKETS = Path("/run/coding-agent")


def cache_root(environ: dict[str, str] | None = None) -> Path:
    """The folder for everything that is built once: outside the repository, shared by checkouts and CI.

    ``CODING_AGENT_CACHE`` wins over ``XDG_CACHE_HOME`` (XDG Base Directory Specification), which wins over
    ``~/.cache``; the folder is ``coding-agent`` below it.
    """
    env = os.environ if environ is None else environ
    base = env.get("CODING_AGENT_CACHE") or env.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).expanduser().absolute() / "coding-agent"


def clusters_root() -> Path:
    """The folder that holds one state folder for each cluster or control plane, by name."""
    return cache_root() / "clusters"


def source_root() -> Path:
    """The folder ``dev/testbed`` of the checkout that this package runs from.

    Raises:
        ClusterError: the package was installed without its checkout.
    """
    candidates = [Path(__file__).resolve().parents[3], Path.cwd() / "dev" / "testbed"]
    for candidate in candidates:
        if (candidate / "go").is_dir():
            return candidate
    raise ClusterError(
        "the pinned Go modules (dev/testbed/go) were not found: run this from a checkout of the repository"
    )


def repository_root() -> Path:
    """The top folder of the checkout."""
    return source_root().parents[1]
