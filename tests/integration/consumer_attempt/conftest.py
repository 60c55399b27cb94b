"""Places where attempts run as in their pods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from coding_agent_model.script import Script

from tests.fixtures.system import StartSystem
from tests.integration.consumer_attempt.place import AttemptPlace, WorkspaceProcess

MakePlace = Callable[..., AttemptPlace]


@pytest.fixture
def make_place(start_system: StartSystem, tmp_path: Path) -> Iterator[MakePlace]:
    """A function that makes a place: `make_place("github", [Script, …])`."""
    with contextlib.ExitStack() as stack:

        def make(flavour: str, scripts: Sequence[Script]) -> AttemptPlace:
            workspace = WorkspaceProcess(tmp_path)
            stack.callback(workspace.end)
            return AttemptPlace(start_system(flavour, list(scripts)), workspace, tmp_path)

        yield make
