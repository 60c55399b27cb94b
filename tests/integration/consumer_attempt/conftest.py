"""Places where attempts run as in their pods."""

import contextlib
import functools
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_testbed.model.script import Script

from tests.fixtures.system import REPOSITORY, StartSystem
from tests.integration.consumer_attempt.ours import BRANCH, FILE, US, Ours
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


@pytest.fixture
def open_ours(make_place: MakePlace) -> Callable[[str], Ours]:
    """A function that opens a change of ours on a forge; nothing is left to do on it."""

    def opened(flavour: str) -> Ours:
        place = make_place(flavour, [])
        forge = place.system.forge
        forge.sandbox.mergeability_lag = 0
        forge.push(REPOSITORY, "main", {FILE: "one\ntwo\nthree\n"}, by="alice")
        forge.push(REPOSITORY, BRANCH, {FILE: "one\n2\nthree\n"}, by=US)
        number = forge.open_change(REPOSITORY, BRANCH, "main", title="Say 2", by=US)
        return Ours(place, number, RoundRecord())

    return opened
