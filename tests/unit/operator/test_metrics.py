"""What is alerted on is shown before it happens: `increase()` does not see a series that starts at 1."""

from coding_agent_core.agenttask import OutcomeType
from coding_agent_core.reasons import Reason
from coding_agent_core.usage import Usage
from coding_agent_operator.metrics import count_change
from prometheus_client import REGISTRY

from tests.unit.operator.making import attempt, status, task


def test_what_is_alerted_on_is_there_before_it_happens() -> None:
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    origins = {
        entry.labels["origin"] for entry in samples if entry.name == "coding_agent_tasks_accepted_total"
    }
    assert origins == {"webhook", "poll", "redelivery", "manual"}
    ends = {
        (found.labels["phase"], found.labels["reason"])
        for found in samples
        if found.name == "coding_agent_tasks_ended_total"
    }
    assert {reason for phase, reason in ends if phase == "Succeeded"} >= {"Completed", "NothingToChange"}
    assert ("Cancelled", "Cancelled") in ends
    failed = {reason for phase, reason in ends if phase == "Failed"}
    assert failed >= {*Reason} - {Reason.COMPLETED, Reason.NOTHING_TO_CHANGE, Reason.CANCELLED}
    assert failed >= {"OOMKilled", "PodLost", "TooManyAttempts", "Unschedulable", "ErrImagePull"}


def test_what_an_attempt_used_is_counted_once_when_its_end_is_recorded() -> None:
    def tokens() -> float:
        labels = {"repository": "octo/demo", "model": "counted-once", "direction": "output"}
        return REGISTRY.get_sample_value("coding_agent_model_tokens_total", labels) or 0.0

    usage = Usage(requests=2, input_tokens=10, output_tokens=7, model="counted-once")
    end = status(attempt(outcome=OutcomeType.SUCCEEDED, usage=usage))
    running = task(status(attempt()))
    before = tokens()
    count_change(running, end)
    count_change(task(end), end)
    assert tokens() - before == 7
