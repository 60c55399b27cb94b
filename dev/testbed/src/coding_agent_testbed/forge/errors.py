"""Refusals of the sandbox, rendered by each flavour in its vendor's words, and of receivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class HttpError(Exception):
    """The request is not fulfilled.

    Attributes:
        status: HTTP status of the answer.
        message: sentence for the caller.
        errors: details in the flavour's own shape.
    """

    status: int
    message: str
    errors: Sequence[dict[str, str]] = ()
    headers: dict[str, str] = field(default_factory=dict)


class DeliveryError(Exception):
    """A receiver did not take a webhook; the message has the status and the body of its answer."""
