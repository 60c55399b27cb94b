"""Which failures of the API server are retried."""

import pytest
from coding_agent_core.kubernetes.task_sink import temporary
from coding_agent_core.kubernetes.transport import ApiError


@pytest.mark.parametrize(
    ("status", "retried"),
    [
        (None, True),
        (429, True),
        (500, True),
        (503, True),
        (400, False),
        (403, False),
        (404, False),
        (422, False),
    ],
)
def test_table(status: int | None, retried: bool) -> None:
    assert temporary(ApiError("sentence", status)) is retried
