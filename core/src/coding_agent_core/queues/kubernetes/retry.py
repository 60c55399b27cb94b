"""When a request that the API server did not take is worth another try. Pure."""

from __future__ import annotations

TRIES = 8
"""Tries of one operation at most, however quickly they fail."""
_FIRST = 0.1
_LONGEST = 1.0


def pause(*, tries: int, status: int | None, retry_after: float | None, left: float) -> float | None:
    """Seconds to wait before the next try; `None`: give up.

    Args:
        tries: tries so far, from 1.
        status: what the API server answered; `None`: nothing.
        retry_after: what it asked for. Priority and fairness answers 429 with at least one second
            (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/).
        left: seconds until the sender must have its answer.
    """
    if tries >= TRIES or not _temporary(status):
        return None
    wait = min(_FIRST * 2 ** (tries - 1), _LONGEST)
    if retry_after is not None:
        wait = max(wait, retry_after)
    return wait if wait < left else None


def _temporary(status: int | None) -> bool:
    return status is None or status == 429 or status >= 500
