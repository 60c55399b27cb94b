"""No reason lacks a part; docs/troubleshooting.md is compared in tests/unit/docs."""

import pytest
from coding_agent_core.task.reasons import REASONS, ExitCode, PodReason, Reason, ReasonClass


def test_every_reason_has_its_row() -> None:
    assert set(REASONS) == {*Reason, *PodReason}


@pytest.mark.parametrize("reason", REASONS)
def test_no_row_lacks_a_sentence(reason: str) -> None:
    facts = REASONS[reason]
    assert facts.message.endswith(".")
    assert facts.advice.endswith(".")
    assert facts.anchor


@pytest.mark.parametrize("reason", Reason)
def test_what_an_attempt_reports_has_an_exit_code(reason: Reason) -> None:
    facts = REASONS[reason]
    assert facts.exit_code is not None
    assert (facts.exit_code == 0) is (facts.outcome_class is ReasonClass.SUCCEEDED)
    comes_again = facts.outcome_class in (ReasonClass.TRANSIENT, ReasonClass.RESTARTED)
    assert (facts.exit_code == ExitCode.TEMPORARY) is comes_again
    assert facts.outcome_class is not ReasonClass.DISRUPTED, "only the cluster disrupts"


def test_the_operators_own_conclusions_have_no_exit_code() -> None:
    assert all(REASONS[reason].exit_code is None for reason in PodReason)
