"""What goes wrong ends with the right labels and a plain sentence on the issue (S21, S23, B3, B5)."""

from __future__ import annotations

import pytest
from coding_agent_model.script import Call, Failure, Script, Turn

from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, until
from tests.integration.main_job.scripts import failing, finish, run, script, write

FLOW = {BOT, PROCESSING, DONE}
BROKEN_CALL = Turn(calls=(Call(tool="run_command", raw_arguments='{"command": '),))
NO_SUCH_FILE = Turn(calls=(Call(tool="read_file", arguments={"path": "no/such/file"}),))
SAME_CALL = run("echo again")

CASES: list[tuple[str, list[Script], dict[str, object], str, str]] = [
    (
        "rate-limited for good",
        failing(status=429, retry_after=0, type="rate_limit_error"),
        {},
        "ModelUnavailable",
        "attempt 2 of 2",
    ),
    ("server errors", failing(status=500), {}, "ModelUnavailable", "attempt 2 of 2"),
    (
        "stream cut for ever",
        [Script(turns=(Turn(text="x", cut=-1),))],
        {},
        "ModelUnavailable",
        "attempt 2 of 2",
    ),
    ("wrong key", failing(status=401, code="invalid_api_key"), {}, "ModelRefused", "attempt 1 of 2"),
    (
        "malformed arguments",
        script(BROKEN_CALL, loop=True),
        {},
        "ModelMalformed|ToolFailing",
        "attempt 1 of 2",
    ),
    ("a tool that fails for ever", script(NO_SUCH_FILE, loop=True), {}, "ToolFailing", "attempt 1 of 2"),
    ("an endless loop", script(SAME_CALL, loop=True), {}, "ToolFailing|LimitReached", "attempt 1 of 2"),
    (
        "out of requests",
        script(*(run(f"echo {n}") for n in range(6)), finish()),
        {"max_llm_process_num": 3},
        "LimitReached",
        "attempt 1 of 2",
    ),
    (
        "out of its budget",
        script(*(run(f"echo {n}").model_copy(update={"prompt_tokens": 10_000}) for n in range(6)), finish()),
        {"budgets": {"task": {"tokens": 25_000}}},
        "BudgetExceeded",
        "attempt 1 of 2",
    ),
    (
        "out of time",
        script(run("sleep 60"), finish()),
        {"consumer": {"timeout_seconds": 4}},
        "DeadlineExceeded",
        "attempt 1 of 2",
    ),
    (
        "cannot be done",
        script(finish("There is no such file.", status="cannot")),
        {},
        "CannotBeDone",
        "attempt 1",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("scripts", "sections", "reasons", "attempts"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_failures_are_told(
    start_system: StartSystem,
    scripts: list[Script],
    sections: dict[str, object],
    reasons: str,
    attempts: str,
) -> None:
    consumer = {"max_attempts": 2, **sections.pop("consumer", {})}  # type: ignore[dict-item]
    system = start_system("github", scripts, consumer=consumer, **sections)
    system.start_webhook()
    system.put_label(1)
    text = system.wait_for_comment(1, "Coding agent: failed")
    until(lambda: not system.labels(1) & FLOW, "the labels of the flow are gone")
    assert any(f"reason {reason}" in text for reason in reasons.split("|")), text
    assert attempts in text
    assert "To try again, add the label" in text
    assert len(system.comments(1)) == 1
    assert system.changes() == []
    assert ("labeled", DONE) not in system.label_history(1), "failed never gets `done`"
    assert "Traceback" not in text


def test_work_so_far_is_kept_and_the_next_run_goes_on_from_it(start_system: StartSystem) -> None:
    stuck = script(write("half.md", "half\n"), Turn(calls=NO_SUCH_FILE.calls), loop=True)
    system = start_system("github", stuck)
    system.start_webhook()
    system.put_label(1)
    text = system.wait_for_comment(1, "Coding agent: failed")
    assert "on the branch `coding-agent/issue-1`" in text
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\n"


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_removing_the_label_stops_the_task(start_system: StartSystem, flavour: str) -> None:
    system = start_system(flavour, script(write("half.md", "half\n"), run("sleep 600"), finish()))
    system.start_webhook()
    system.put_label(1)
    until(lambda: len(system.model.requests) >= 2, "the agent is at work")
    system.forge.remove_label(REPOSITORY, 1, PROCESSING)
    text = system.wait_for_comment(1, "Coding agent: cancelled")
    assert "The label was removed." in text
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\n", "work so far is pushed"
    until(lambda: not system.labels(1) & FLOW, "the labels of the flow are gone")
    assert ("labeled", DONE) not in system.label_history(1), "cancelled never gets `done`"
    assert system.changes() == []


def test_a_transient_failure_is_tried_again_and_succeeds(start_system: StartSystem) -> None:
    down = Failure(status=503, times=0)
    first = Script(turns=(write("a.md", "a\n"), Turn(error=down), finish()))
    told = "(?s)An earlier attempt.*Attempt 1 ended with the reason ModelUnavailable: The model's service"
    second = Script(match=told, turns=(run("echo b >> a.md"), finish()))
    system = start_system("github", [second, first], llm={"max_retries": 0})
    system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    assert "attempt 2 of 3" in system.comments(1)[0].body
    [change] = system.changes()
    assert system.file_at(change.head, "a.md") == "a\nb\n", "it went on from the pushed branch"


def test_the_forge_being_down_costs_nothing(start_system: StartSystem) -> None:
    system = start_system("github", script(write("a.md", "a\n"), finish()))
    system.start_webhook()
    system.fault(path="/api/v3/repos/acme/pricing/issues/1$", method="GET", times=4, status=503)
    system.fault(path="/api/v3/repos/acme/pricing/issues/1/comments", method="POST", times=1, close="after")
    system.fault(path="/api/v3/repos/acme/pricing/pulls", method="POST", times=2, status=502)
    system.put_label(1)
    system.wait_for_label(1, DONE)
    assert "attempt 1 of 3" in system.comments(1)[0].body, "an outage of the forge is not a failed attempt"
    assert len(system.comments(1)) == 1, "an answer that was lost makes no second comment"
    assert len(system.changes()) == 1
