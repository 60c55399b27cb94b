"""Every error that an attempt can meet has a reason of its own, or is known to be internal."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator
from datetime import UTC, datetime

import coding_agent_consumer
import coding_agent_core
import coding_agent_forges
import pytest
from coding_agent_consumer.attempt.failures import _REASON_OF_ERROR, outcome_of_error
from coding_agent_consumer.repository.git_errors import GitFailedError
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.task.reasons import Reason, ReasonClass
from coding_agent_forges.rest.pacing import forge_error

ELSEWHERE = {"ApiError", "FieldError", "QueueUnavailableError", "UnreadableTaskError"}
"""An attempt sends no request to the API server or a broker, and parses no other program's objects."""
INTERNAL = {"ForgeError", "GitFailedError", "StoreError", "TokenError"}
"""Each means a defect of ours or of the machine. The clients raise only subclasses of `ForgeError`."""


def _subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def test_no_error_is_internal_by_oversight() -> None:
    for package in (coding_agent_core, coding_agent_forges, coding_agent_consumer):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    internal = set()
    for error in _subclasses(CodingAgentError):
        if not error.__module__.startswith(
            ("coding_agent_core", "coding_agent_forges", "coding_agent_consumer")
        ):
            continue
        bases = {base.__name__ for base in error.__mro__}
        reason = next(reason for kind, reason in _REASON_OF_ERROR if issubclass(error, kind))
        if reason is Reason.INTERNAL and not bases & ELSEWHERE:
            internal.add(error.__name__)
    assert internal == INTERNAL


@pytest.mark.parametrize(
    ("status", "class_"),
    [
        (302, ReasonClass.PERMANENT),
        (400, ReasonClass.PERMANENT),
        (402, ReasonClass.PERMANENT),
        (405, ReasonClass.PERMANENT),
        (409, ReasonClass.TRANSIENT),
        (412, ReasonClass.TRANSIENT),
        (413, ReasonClass.PERMANENT),
        (415, ReasonClass.PERMANENT),
        (421, ReasonClass.TRANSIENT),
        (422, ReasonClass.PERMANENT),
        (451, ReasonClass.PERMANENT),
    ],
)
def test_what_a_forge_does_not_accept_has_a_reason_of_its_own_with_its_words(
    status: int, class_: ReasonClass
) -> None:
    error = forge_error(
        status,
        {},
        b'{"message": "The title has s3cret."}',
        what="opening a pull request for acme/shop#7",
        host="forge.example",
        token="`github.token`",
        now=datetime(2026, 12, 7, tzinfo=UTC),
    )
    outcome = outcome_of_error(error, lambda text: text.replace("s3cret", "[secret]"))
    assert outcome.reason is (
        Reason.FORGE_CONFLICT if class_ is ReasonClass.TRANSIENT else Reason.FORGE_REJECTED
    )
    assert outcome.outcome_class is class_
    assert "opening a pull request for acme/shop#7" in outcome.message
    assert status < 400 or "The title has [secret]." in outcome.message


@pytest.mark.parametrize(
    "error", [GitFailedError("git gc failed"), CodingAgentError("x"), ValueError("y")], ids=repr
)
def test_a_defect_leaves_its_trace_in_the_log(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert outcome_of_error(error, str).reason is Reason.INTERNAL
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
