"""The outcome of an attempt that met an error."""

from __future__ import annotations

import logging

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeListTooLongError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
    WithdrawnError,
)
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.environment import EnvironmentFileError
from coding_agent_core.task.reasons import Reason

from coding_agent_consumer.item.approval import NotApprovedError
from coding_agent_consumer.item.push_check import (
    PushNotAllowedError,
    RoundEndedError,
    SourceRepositoryGoneError,
)
from coding_agent_consumer.repository.commits import InvalidPatchError
from coding_agent_consumer.repository.git_errors import (
    BranchGoneError,
    RemoteMovedError,
    RepositoryUnusableError,
)
from coding_agent_consumer.workspace.protocol import WorkspaceGoneError, WorkspaceRequestError

_logger = logging.getLogger("coding_agent.attempt")

_REASON_OF_ERROR: tuple[tuple[type[Exception], Reason], ...] = (
    (RepositoryUnusableError, Reason.CANNOT_BE_DONE),
    (ForgeUnavailableError, Reason.FORGE_UNAVAILABLE),
    (ForgeRefusedError, Reason.FORGE_REFUSED),
    (ForgeListTooLongError, Reason.FORGE_REFUSED),
    (BranchGoneError, Reason.BRANCH_GONE),
    (ForgeNotFoundError, Reason.ITEM_GONE),
    (RemoteMovedError, Reason.BRANCH_MOVED),
    (RoundEndedError, Reason.SUPERSEDED),
    (WorkspaceGoneError, Reason.WORKSPACE_FAILED),
    (WorkspaceRequestError, Reason.WORKSPACE_FAILED),
    (InvalidPatchError, Reason.CHANGE_REFUSED),
    (SourceRepositoryGoneError, Reason.SOURCE_REPOSITORY_GONE),
    (PushNotAllowedError, Reason.PUSH_NOT_ALLOWED),
    (WithdrawnError, Reason.WITHDRAWN),
    (NotApprovedError, Reason.NOT_APPROVED),
    (SettingsError, Reason.CONFIGURATION),
    (EnvironmentFileError, Reason.ENVIRONMENT_REFUSED),
    (CodingAgentError, Reason.INTERNAL),
)


def outcome_of_error(error: Exception) -> Outcome:
    """Return the outcome of an attempt that met this error. Log unexpected errors with their traceback."""
    for kind, reason in _REASON_OF_ERROR:
        if isinstance(error, kind):
            retry_after = getattr(error, "retry_after", None)
            answered = error.answered if isinstance(error, WithdrawnError) else None
            return Outcome(reason=reason, message=str(error), retry_after=retry_after, answered=answered)
    _logger.error("The attempt failed unexpectedly", exc_info=error)
    message = f"The attempt failed unexpectedly ({type(error).__name__}); see its log for details."
    return Outcome(reason=Reason.INTERNAL, message=message)
