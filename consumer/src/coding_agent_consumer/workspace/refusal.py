"""What the serving side says when it cannot do what was asked."""

from __future__ import annotations


class RefusedError(Exception):
    """The request cannot be done as asked; the message is a sentence for the model."""
