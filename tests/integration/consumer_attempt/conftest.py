"""Places where attempts run as in their pods."""

import contextlib
import functools
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from coding_agent_model.script import Script

from tests.fixtures.system import StartSystem
from tests.integration.consumer_attempt.place import AttemptPlace, WorkspaceProcess

MakePlace = Callable[..., AttemptPlace]


_certificates = functools.cache(ssl.create_default_context)
"""Reading them takes each of an attempt's clients 50 ms, and none of them speaks TLS here."""


@pytest.fixture
def make_place(
    start_system: StartSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakePlace]:
    """A function that makes a place: `make_place("github", [Script, …])`."""
    monkeypatch.setattr(ssl, "create_default_context", _certificates)
    with contextlib.ExitStack() as stack:

        def make(flavour: str, scripts: Sequence[Script]) -> AttemptPlace:
            workspace = WorkspaceProcess(tmp_path)
            stack.callback(workspace.end)
            return AttemptPlace(start_system(flavour, list(scripts)), workspace, tmp_path)

        yield make
