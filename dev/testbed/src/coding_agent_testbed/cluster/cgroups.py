"""The control groups below which every pod of a cluster is: made before the kubelet, removed at the end."""

from pathlib import Path

from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.until import NotReadyError, until

ROOT = Path("/sys/fs/cgroup")
_V2 = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


def group(cluster: str) -> str:
    """The kubelet's ``cgroupRoot`` for the cluster of that name."""
    return f"/coding-agent-{cluster}"


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The mounted hierarchies: one for version 2 (cgroups(7)), one for each controller for version 1.

    Raises:
        ClusterError: there are none.
    """
    if (root / "cgroup.controllers").exists():
        return [root]
    # Aliases such as "cpu,cpuacct" are symbolic links; "unified" has no controller, but runc uses it too.
    found = sorted({p.parent.resolve() for p in root.glob("*/cgroup.procs")})
    if not found:
        raise ClusterError(f"no control groups are mounted on {root}: the kubelet cannot run here")
    return found


def create(cluster: str, root: Path = ROOT) -> None:
    """Make the cluster's group in every hierarchy."""
    for hierarchy in hierarchies(root):
        folder = hierarchy / group(cluster).lstrip("/")
        folder.mkdir(exist_ok=True)
        # A new version 1 cpuset has no CPU and no memory node, so no process can enter it.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.name == "cpuset" and (hierarchy / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())
        if hierarchy == root:
            have = (root / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{c}" for c in _V2 if c in have)
            for level in (root, folder):
                (level / "cgroup.subtree_control").write_text(wanted)


def left(cluster: str, root: Path = ROOT) -> list[Path]:
    """The groups of the cluster that still exist."""
    name = group(cluster).lstrip("/")
    return [h / name for h in hierarchies(root) if (h / name).exists()]


def remove(cluster: str) -> None:
    """Remove the cluster's groups, emptied by the end of its processes.

    Raises:
        NotReadyError: some are still in use after a minute.
    """

    def gone() -> bool:
        for folder in left(cluster):
            for group_folder in sorted(folder.rglob("*"), reverse=True):
                if group_folder.is_dir():
                    group_folder.rmdir()
            folder.rmdir()
        return not left(cluster)

    try:
        until("control groups removed", gone, timeout=60)
    except NotReadyError as error:
        raise NotReadyError(f"{error}; left: {', '.join(map(str, left(cluster)))}") from error
