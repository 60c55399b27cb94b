"""When a failed request is sent again: the table."""

from __future__ import annotations

import pytest
from coding_agent_core.forge.retrying import Failure, Repeat, RetryPolicy, next_wait

POLICY = RetryPolicy(tries=4, total=45, first_wait=1, longest_wait=20)
NOT_DONE = Failure(processed=False)
MAYBE_DONE = Failure(processed=True)


@pytest.mark.parametrize(
    ("repeat", "failure", "tried", "elapsed", "chance", "wait"),
    [
        pytest.param(Repeat.SAFE, MAYBE_DONE, 1, 0, 0.0, 0.5, id="first wait, least chance"),
        pytest.param(Repeat.SAFE, MAYBE_DONE, 1, 0, 1.0, 1.0, id="first wait, most chance"),
        pytest.param(Repeat.SAFE, MAYBE_DONE, 3, 5, 1.0, 4.0, id="doubled twice"),
        pytest.param(Repeat.SAFE, MAYBE_DONE, 4, 5, 1.0, None, id="no fifth try"),
        pytest.param(Repeat.SAFE, MAYBE_DONE, 2, 43.5, 1.0, None, id="not past the total time"),
        pytest.param(Repeat.UNLESS_PROCESSED, NOT_DONE, 1, 0, 1.0, 1.0, id="certainly not done: again"),
        pytest.param(Repeat.UNLESS_PROCESSED, MAYBE_DONE, 1, 0, 1.0, None, id="maybe done: never again"),
        pytest.param(Repeat.SAFE, Failure(False, 7), 1, 0, 0.0, 7.0, id="as long as the forge asks"),
        pytest.param(Repeat.SAFE, Failure(False, 7), 3, 0, 0.5, 7.5, id="never shorter, a little longer"),
        pytest.param(Repeat.SAFE, Failure(False, 0), 1, 0, 0.0, 0.0, id="the forge says at once"),
        pytest.param(Repeat.SAFE, Failure(False, 21), 1, 0, 0.0, None, id="asks for longer than we wait"),
        pytest.param(Repeat.SAFE, Failure(False, 20), 2, 30, 0.0, None, id="asked wait passes the total"),
    ],
)
def test_next_wait(
    repeat: Repeat, failure: Failure, tried: int, elapsed: float, chance: float, wait: float | None
) -> None:
    assert next_wait(POLICY, repeat, failure, tried=tried, elapsed=elapsed, chance=chance) == wait


def test_long_backoff_is_capped() -> None:
    many = RetryPolicy(tries=50, total=10_000, first_wait=1, longest_wait=20)
    assert next_wait(many, Repeat.SAFE, MAYBE_DONE, tried=30, elapsed=0, chance=1.0) == 20
