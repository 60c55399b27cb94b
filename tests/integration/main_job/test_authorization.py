"""Who may ask: only people with the permission start the agent."""

from __future__ import annotations

import pytest

from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System, until
from tests.integration.main_job.scripts import fixes_the_bug


def refusal_of(system: System, number: int, who: str) -> str:
    """The comment that refuses the task, once the labels are taken back."""
    body = system.wait_for_comment(number, f"{who} applied the label, but only people with")
    until(lambda: not system.labels(number) & {BOT, PROCESSING, DONE}, "the label is taken back")
    return body


@pytest.mark.parametrize("flavour", ["github", pytest.param("gitlab", marks=pytest.mark.long)])
def test_without_write_access_the_label_starts_nothing_also_from_an_issue_form(
    start_system: StartSystem, flavour: str
) -> None:
    system = start_system(flavour, fixes_the_bug())
    system.start_webhook()
    form = system.forge.open_issue(REPOSITORY, "By a form", by="reader", labels=[BOT])
    assert "with write access to acme/pricing may ask for a task." in refusal_of(system, form, "reader")
    system.forge.add_label(REPOSITORY, 1, BOT, by="triager")
    body = refusal_of(system, 1, "triager")
    assert "Coding agent: failed" in body
    assert "NotAuthorized" in body
    assert system.model.requests == []
    assert system.changes() == []

    system.wait_for_next_second(1)
    system.forge.add_label(REPOSITORY, 1, BOT, by="alice")
    system.wait_for_label(1, DONE)
    assert len(system.changes()) == 1
