"""The outcome of an attempt that met an error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeConflictError,
    ForgeListTooLongError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeRejectedError,
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
    (ForgeConflictError, Reason.FORGE_CONFLICT),
    (ForgeRejectedError, Reason.FORGE_REJECTED),
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


def outcome_of_error(error: Exception, scrub: Callable[[str], str]) -> Outcome:
    """Return the outcome of an attempt that met this error. Log each defect with its traceback.

    Args:
        scrub: removes secrets from the message, which may have words of the forge.
    """
    reason = next((reason for kind, reason in _REASON_OF_ERROR if isinstance(error, kind)), Reason.INTERNAL)
    if reason is Reason.INTERNAL:
        _logger.error("The attempt failed unexpectedly", exc_info=error)
    # The text of an unexpected exception may contain code or a secret.
    message = f"The attempt failed unexpectedly ({type(error).__name__}); see its log for details."
    if isinstance(error, CodingAgentError):
        message = scrub(str(error))
    answered = error.answered if isinstance(error, WithdrawnError) else None
    asked = getattr(error, "retry_after", None)
    return Outcome(reason=reason, message=message, retry_after=asked, answered=answered)
