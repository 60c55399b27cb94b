"""Which coding agent a label names."""

from __future__ import annotations

import pytest
from coding_agent_core.runner import RunnerName, labelled_runner


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
    assert labelled_runner(labels, "coding agent") is runner
