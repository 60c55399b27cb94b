"""Which labels ask for a task, and which coding agent they choose."""

from __future__ import annotations

import pytest
from coding_agent_core.runner import RunnerName
from coding_agent_core.settings.forges import Labels


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
