"""What is remembered of a cluster between commands: its addresses and its parts, in one small file."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.network import Network

_FILE = "cluster.json"


@dataclass(frozen=True)
class State:
    """The addresses of a cluster and the parts of its control plane; ``owner`` is a test run's pid, or 0."""

    network: Network
    names: Sequence[str]
    owner: int = 0


def save(root: Path, state: State) -> None:
    """Write the state into the cluster's folder (made when absent)."""
    root.mkdir(parents=True, exist_ok=True)
    # In one step: another test run may look at any moment whether this cluster's owner is alive.
    scratch = root / f"{_FILE}.{os.getpid()}"
    scratch.write_text(json.dumps(asdict(state)))
    scratch.rename(root / _FILE)


def load(root: Path) -> State | None:
    """Read the state of the cluster in that folder; None when there is none.

    Raises:
        ClusterError: the file is damaged.
    """
    file = root / _FILE
    try:
        data = json.loads(file.read_text())
        return State(Network(**data["network"]), tuple(data["names"]), int(data["owner"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{file} is damaged ({error}); remove the folder {root}") from error
