"""Every error that an attempt can meet has a reason of its own, or is known to be internal."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import coding_agent_consumer
import coding_agent_core
import coding_agent_forges
from coding_agent_consumer.attempt.failures import _REASON_OF_ERROR
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.task.reasons import Reason

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
