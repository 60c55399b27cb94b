"""Faults on demand: the next requests get a wrong or late answer, whatever the script says."""

from __future__ import annotations

from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr


class Fault(BaseModel):
    """A fault that the server shows.

    Attributes:
        id: by which it is ended; one is made up if none is given.
        times: how many requests it hits; `None`: all until `end`.
        status, retry_after: the error to answer instead, with its `Retry-After` in seconds.
        cut: the answer is cut off in its middle, and the connection closed.
        delay_ms: milliseconds to wait first; alone, the request then goes its way.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: uuid4().hex[:8], min_length=1, max_length=64)
    times: int | None = Field(default=1, ge=1, le=10_000)
    status: int | None = Field(default=None, ge=400, le=599)
    retry_after: float | None = None
    cut: bool = False
    delay_ms: int = Field(default=0, ge=0, le=60_000)

    _hits: int = PrivateAttr(default=0)
    _stopped: bool = PrivateAttr(default=False)

    @property
    def hits(self) -> int:
        """The number of requests that it has hit."""
        return self._hits

    @property
    def ended(self) -> bool:
        """Whether it no longer hits requests."""
        return self._stopped or (self.times is not None and self._hits >= self.times)

    def end(self) -> None:
        """End the fault; `hits` stays."""
        self._stopped = True

    def hit(self) -> None:
        """Count a request."""
        self._hits += 1
