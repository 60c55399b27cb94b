"""When a failed request is sent again: the table."""

import pytest
from coding_agent_core.retry import RetryPolicy, asked_wait

POLICY = RetryPolicy(tries=4, total=45, first_wait=1, longest_wait=20)


@pytest.mark.parametrize(
    ("tried", "elapsed", "chance", "retry_after", "wait"),
    [
        pytest.param(1, 0, 0.0, None, 0.5, id="first wait, least chance"),
        pytest.param(1, 0, 1.0, None, 1.0, id="first wait, most chance"),
        pytest.param(3, 5, 1.0, None, 4.0, id="doubled twice"),
        pytest.param(4, 5, 1.0, None, None, id="no fifth try"),
        pytest.param(2, 43.5, 1.0, None, None, id="not past the total time"),
        pytest.param(1, 0, 0.0, 7, 7.0, id="as long as the server asks"),
        pytest.param(3, 0, 0.5, 7, 7.5, id="never shorter, a little longer"),
        pytest.param(1, 0, 0.0, 0, 0.5, id="at once by the server, not by us"),
        pytest.param(1, 0, 0.0, 21, None, id="asks for longer than we wait"),
        pytest.param(2, 30, 0.0, 20, None, id="asked wait passes the total"),
    ],
)
def test_next_wait(
    tried: int, elapsed: float, chance: float, retry_after: float | None, wait: float | None
) -> None:
    assert POLICY.next_wait(tried=tried, elapsed=elapsed, chance=chance, retry_after=retry_after) == wait


@pytest.mark.parametrize(
    ("asked", "chance", "wait"),
    [(0, 1.0, 0), (60, 0.0, 60), (60, 0.5, 63), (900, 1.0, 900), (7200, 1.0, 900), (7200, 0.0, 818.2)],
)
def test_an_asked_wait_is_spread_and_capped(asked: float, chance: float, wait: float) -> None:
    assert asked_wait(asked, 900, chance) == pytest.approx(wait, abs=0.1)
