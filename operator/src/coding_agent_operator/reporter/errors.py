"""Why a look at a task ends without showing it."""

from __future__ import annotations

from coding_agent_core.errors import CodingAgentError


class NotConfiguredError(CodingAgentError):
    """The item is on a forge that is not configured here, or that has no token here."""


class ChangedError(CodingAgentError):
    """The task has changed while it was looked at: look again."""
