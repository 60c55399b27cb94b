"""Which refusals of the API server are tried again, and when."""

import pytest
from coding_agent_core.kubernetes.task_sink import TRIES, pause


@pytest.mark.parametrize(
    ("tries", "status", "retry_after", "left", "wait"),
    [
        (1, None, None, 4.5, 0.1),  # no answer
        (2, None, None, 4.0, 0.2),
        (6, 500, None, 4.0, 1.0),  # capped
        (1, 503, None, 4.0, 0.1),
        (1, 429, 1.0, 4.0, 1.0),  # as asked
        (5, 429, 1.0, 4.0, 1.0),
        (1, 429, 5.0, 4.0, None),  # too late for the sender
        (1, 429, None, 0.05, None),
        (TRIES, 500, None, 4.0, None),
        (1, 400, None, 4.0, None),
        (1, 403, None, 4.0, None),
        (1, 404, None, 4.0, None),
        (1, 422, None, 4.0, None),
    ],
)
def test_table(
    tries: int, status: int | None, retry_after: float | None, left: float, wait: float | None
) -> None:
    assert pause(tries=tries, status=status, retry_after=retry_after, left=left) == wait
