"""What goes wrong, or was asked for by a stranger, ends with the right labels and a plain sentence."""

import pytest
from coding_agent_testbed.model.script import Call, Failure, Script, Turn
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System
from tests.integration.main_job.scripts import finish, fixes_the_bug, run, script, write

FLOW = {BOT, PROCESSING, DONE}


def test_a_failure_is_told_and_work_so_far_is_kept(start_system: StartSystem) -> None:
    no_such_file = Turn(calls=(Call(tool="read_file", arguments={"path": "no/such/file"}),))
    system = start_system("github", script(write("half.md", "half\n"), no_such_file, loop=True))
    system.start_webhook()
    system.put_label(1)
    text = system.wait_for_comment(1, "Coding agent: failed")
    until("the labels of the flow are gone", lambda: not system.labels(1) & FLOW)
    for part in ("reason ToolFailing", "attempt 1 of 3", "To try again, add the label"):
        assert part in text
    assert "on the branch `coding-agent/issue-1`" in text
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\n"
    assert len(system.comments(1)) == 1
    assert system.changes() == []
    assert ("labeled", DONE) not in system.label_history(1), "failed never gets `done`"


def test_removing_the_label_stops_the_task(start_system: StartSystem) -> None:
    system = start_system("gitlab", script(write("half.md", "half\n"), run("sleep 600"), finish()))
    system.start_webhook()
    system.put_label(1)
    at_work(system)
    # Forges tell whole seconds: a removal in the second of the label counts as older.
    system.wait_for_next_second(1)
    system.forge.remove_label(REPOSITORY, 1, PROCESSING)
    text = system.wait_for_comment(1, "Coding agent: cancelled")
    assert "the item no longer has any of the bot's labels" in text
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\n", "work so far is pushed"
    until("the labels of the flow are gone", lambda: not system.labels(1) & FLOW)
    assert ("labeled", DONE) not in system.label_history(1), "cancelled never gets `done`"
    assert system.changes() == []
    deliveries = system.forge.sandbox.deliveries
    answers = system.forge.run(lambda: [delivery.response_body for delivery in deliveries.log])
    assert not any("but the item" in answer for answer in answers), "the webhook got the right answer"


def test_a_transient_failure_is_tried_again_and_the_forge_being_down_costs_nothing(
    start_system: StartSystem,
) -> None:
    first = Script(turns=(write("a.md", "a\n"), Turn(error=Failure(status=503, times=0)), finish()))
    told = "(?s)An earlier attempt.*Attempt 1 ended: The model's service"
    second = Script(match=told, turns=(run("echo b >> a.md"), finish()))
    system = start_system("github", [second, first], llm={"max_retries": 0})
    system.start_webhook()
    system.fault(path="/api/v3/repos/acme/pricing/issues/1$", method="GET", times=4, status=503)
    system.fault(path="/api/v3/repos/acme/pricing/issues/1/comments", method="POST", times=1, close="after")
    system.fault(path="/api/v3/repos/acme/pricing/pulls", method="POST", times=2, status=502)
    system.put_label(1)
    system.wait_for_label(1, DONE)
    assert "attempt 2 of 3" in system.comments(1)[0].body, "an outage of the forge is not a failed attempt"
    assert len(system.comments(1)) == 1, "an answer that was lost makes no second comment"
    [change] = system.changes()
    assert system.file_at(change.head, "a.md") == "a\nb\n", "it went on from the pushed branch"


def refusal_of(system: System, number: int, who: str) -> str:
    """The comment that refuses the task, once the labels are taken back."""
    body = system.wait_for_comment(number, f"{who} applied the label, but only people with")
    until("the label is taken back", lambda: not system.labels(number) & FLOW)
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


CONTINUED = Script(match="An earlier attempt", turns=(write("b.md", "b\n"), finish("Took its time.")))
SLOW = script(write("a.md", "a\n"), run("sleep 600"), finish())


def at_work(system: System) -> None:
    until("the agent is in mid-task", lambda: len(system.model.requests) >= 2)
    system.wait_for_label(1, PROCESSING)
