"""`make bench NAMES=start`: what it reads of logs, and that only who names it starts a node."""

import pytest
from coding_agent_testbed.bench.__main__ import USUAL
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.start import BENCHMARK, cases, moments

LOG = """\
2026-11-30T04:33:49.250000001Z 2026-11-30 04:33:49 INFO [coding_agent.attempt] Attempt 1 of 3 at issue-1 starts
2026-11-30T04:33:49.75Z 2026-11-30 04:33:49 INFO [coding_agent.attempt] Cloned acme/pricing: branch coding-agent/issue-1
2026-11-30T04:33:52Z 2026-11-30 04:33:52 INFO [coding_agent.attempt] Cloned acme/pricing: branch coding-agent/issue-1
"""  # noqa: E501
FIRST, CLONED = 1_796_013_229.25, 1_796_013_229.75


def test_the_first_line_and_the_first_clone_are_read_from_the_kubelets_timestamps() -> None:
    assert list(moments(LOG).values()) == pytest.approx([FIRST, CLONED], abs=1e-5)


@pytest.mark.parametrize("log", ["", LOG.partition("\n")[0]])
def test_a_log_without_a_clone_is_shown(log: str) -> None:
    with pytest.raises(BenchError) as error:
        moments(log)
    assert log in str(error.value)


def test_each_step_has_its_median_and_its_worst_and_the_first_is_the_base() -> None:
    base, agent = cases([{"job": seconds, "agent": 2 * seconds} for seconds in (0.5, 3.0, 0.7)])
    assert (base.name, base.values) == ("job", {"median_s": 0.7, "worst_s": 3.0})
    assert (agent.name, agent.values) == ("agent", {"median_s": 1.4, "worst_s": 6.0})


def test_a_run_without_names_starts_no_node() -> None:
    assert BENCHMARK.name not in USUAL
    assert {"attempt", "operator"} <= USUAL.keys()
