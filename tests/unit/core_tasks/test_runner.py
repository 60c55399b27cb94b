"""Which labels ask for a task, and which coding agent they choose."""

from datetime import UTC, datetime

import pytest
from coding_agent_core.agenttask import AgentTask, manifest
from coding_agent_core.attempts import AttemptInput
from coding_agent_core.queue_messages import QueuedTask
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import RunnerName

from tests.fixtures.deliveries import asked


@pytest.mark.parametrize(
    ("labels", "runner"),
    [
        ((), None),
        (("coding agent", "bug"), None),
        (("coding agent: codex", "bug"), RunnerName.CODEX),
        (("Coding Agent: Codex",), RunnerName.CODEX),
        (("coding agent: other",), None),
        (("another bot: codex",), None),
        (("coding agent: opencode", "coding agent: codex"), RunnerName.CODEX),
    ],
)
def test_a_label_after_our_own_names_the_coding_agent(
    labels: tuple[str, ...], runner: RunnerName | None
) -> None:
    assert Labels().runner(labels) is runner


def test_every_coding_agent_has_a_label_that_asks_for_it() -> None:
    labels = Labels(bot_label="robot")
    assert labels.triggers == {"robot", *(f"robot: {name}" for name in RunnerName)}
    assert [labels.trigger(labels.runner({label})) for label in sorted(labels.triggers)] == sorted(
        labels.triggers
    )


@pytest.mark.parametrize("runner", [None, RunnerName.CODEX])
def test_the_choice_is_kept_from_the_label_to_the_attempt(runner: RunnerName | None) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    request = asked().model_copy(update={"runner": runner})
    assert AgentTask.of(manifest(request, run=1)).spec.runner is runner
    queued = QueuedTask(request=request, uuid="u")
    given = AttemptInput(task=queued, max_attempts=1, timeout_seconds=1).to_json()
    assert AttemptInput.from_json(given, now=now).task == queued
