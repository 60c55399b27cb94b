"""A control plane alone: plain processes on free loopback ports, no privilege, no node, several at once."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from coding_agent_testbed.cluster import build, parts, paths, state
from coding_agent_testbed.cluster.control_plane import ControlPlane
from coding_agent_testbed.cluster.errors import BuildError, MachineError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.network import loopback_network
from coding_agent_testbed.cluster.processes import fingerprint
from coding_agent_testbed.until import NotReadyError

# A free port may be taken between the check and the start; three times in a row is not chance.
_TRIES = 3


def binaries(names: Iterable[str]) -> dict[str, Path]:
    """Where the named parts are: in ``KUBEBUILDER_ASSETS`` as far as it has them, else built.

    ``KUBEBUILDER_ASSETS`` is the folder of envtest's binaries (etcd, kube-apiserver, kubectl;
    https://book.kubebuilder.io/reference/envtest), the same variable as controller-runtime's.

    Raises:
        MachineError: the variable names no folder.
        BuildError: a part is neither there nor can be built.
    """
    names = list(names)
    found: dict[str, Path] = {}
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        folder = Path(assets).expanduser().absolute()
        if not folder.is_dir():
            raise MachineError(f"KUBEBUILDER_ASSETS={assets} is not a folder; unset it to build the parts")
        found = {n: folder / n for n in names if (folder / n).is_file()}
    missing = [n for n in names if n not in found]
    try:
        return found | build.binaries(missing)
    except BuildError as error:
        if found:
            raise BuildError(f"KUBEBUILDER_ASSETS lacks {', '.join(missing)}, and: {error}") from error
        raise


def up(root: Path, names: Sequence[str] = parts.CONTROL_PLANE, *, owner: int = 0) -> ControlPlane:
    """Start a control plane in ``root``, or what is missing of the one there, and wait until it is ready.

    Raises:
        ClusterError: it could not be built or does not become ready.
    """
    with locked(root.with_suffix(".lock")):
        for left in reversed(range(_TRIES)):
            known = state.load(root)
            if known is None:
                known = state.State(loopback_network(), names, owner)
                state.save(root, known)
            plane = ControlPlane(root, known.network, binaries({*known.names, "kubectl"}), names=known.names)
            try:
                plane.up()
                return plane
            except NotReadyError as error:
                if not left or "address already in use" not in str(error):
                    raise
                down(root)
        raise AssertionError("unreachable: the last try raises")


def down(root: Path) -> None:
    """End the control plane in ``root``, if there is one, and remove all of it."""
    known = state.load(root)
    if known is not None:
        ControlPlane(root, known.network, {}, names=known.names).down()
    shutil.rmtree(root, ignore_errors=True)
    root.with_suffix(".lock").unlink(missing_ok=True)


def sweep() -> None:
    """End the control planes of test runs that were killed before they could do so themselves."""
    with locked(paths.clusters_root() / "sweep.lock"):
        for folder in paths.clusters_root().glob("test-*"):
            known = state.load(folder) if folder.is_dir() else None
            if known is not None and known.owner and fingerprint(known.owner) is None:
                down(folder)
