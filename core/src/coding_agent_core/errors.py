"""Errors that modules share. Each message is a sentence that can be shown to a person."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum


class CodingAgentError(Exception):
    """Base of this project's errors."""


def reason_of(error: Exception) -> str:
    """Return why something failed, for a person. The text of an unexpected exception says too little."""
    if isinstance(error, CodingAgentError):
        return str(error)
    return f"There is a defect in the program ({type(error).__name__}: {error}); its log has the traceback."


class SettingsError(CodingAgentError):
    """A setting is missing, unknown or wrong; the message names the key, and the line or variable."""


class TokenMissingError(SettingsError):
    """The file of a forge's token is absent or empty; it may appear later, as a mounted Secret does."""


class QueueUnavailableError(CodingAgentError):
    """The queue cannot store a task safely now; nothing was queued, and the sender should retry."""


class ForgeError(CodingAgentError):
    """The forge answered with an error, or not at all.

    Attributes:
        status: the HTTP status, or `None` if there was no answer.
        retry_after: seconds for which the forge asks us to wait before a retry, if it does.
        repeatable: whether the same request can safely be sent again and may succeed.
        answered_at: when the forge gave the answer, by its own clock, if it says so.
    """

    repeatable = False
    answered_at: datetime | None = None

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ForgeUnavailableError(ForgeError):
    """A temporary problem: the forge is unreachable, answered 5xx, or limits the rate. A retry can help."""


class ForgeRefusedError(ForgeError):
    """A permanent problem: the credentials are wrong or lack a right (401, 403)."""


class ForgeArchivedError(ForgeRefusedError):
    """The repository is archived: nothing in it can be changed, whoever asks."""


class ForgeRejectedError(ForgeError):
    """A permanent problem: the forge understood the request and does not accept it (400, 422, a redirect)."""


class ForgeConflictError(ForgeRejectedError):
    """The forge does not accept the request in its present state, which may change (409, 412, 421)."""


class ForgeNotFoundError(ForgeError):
    """The item, repository or label does not exist, or the credentials may not see it (404, 410)."""


class ForgeListTooLongError(ForgeError):
    """A list of the forge is longer than what we read, and what was looked for is not in the part we read."""


class StoreError(CodingAgentError):
    """The bucket failed. The message contains neither a key nor text from the store."""


class RequestKind(StrEnum):
    """The kinds of requests that limits distinguish."""

    READ = "read"
    CREATE = "create"
    """The request creates a comment or a change, and people are notified."""
    WRITE = "write"
    """The request writes something else: labels, edits, reactions."""


class NotYetError(ForgeUnavailableError):
    """A request was not sent, because the rate limits permit none of its kind for `retry_after` seconds.

    The forge may be available. Callers that do not distinguish this error treat it as a temporary outage.
    """

    def __init__(self, message: str, kind: RequestKind, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)
        self.kind = kind


class WithdrawnError(CodingAgentError):
    """People have withdrawn the run at which an attempt works.

    Attributes:
        answered: the position in the item's history that the run answers then (`labels.Position`), as text.
        closed: whether they closed the item, and did not remove the label.
    """

    def __init__(self, answered: str, *, closed: bool) -> None:
        super().__init__("The item was closed." if closed else "The label was removed.")
        self.answered = answered
        self.closed = closed
