"""The agent does its work with a model over real HTTP."""

import logging
from pathlib import Path

import pytest
from coding_agent_consumer.transcript import read, recap
from coding_agent_core.reasons import Reason

from tests.fixtures.model import API_KEY, call, finish, model_server, model_settings, script
from tests.integration.consumer_agent.running import Running, running

__all__ = ["running"]

REPOSITORY = Path(__file__).parents[3]


async def test_a_plain_answer_after_work_ends_it_too(running: Running) -> None:
    with model_server(
        script(call("write_file", path="a.txt", content="a"), {"text": "Wrote a.txt."})
    ) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert (outcome.reason, outcome.summary) == (Reason.COMPLETED, "Wrote a.txt.")
    assert (running.workspace.root / "a.txt").read_text() == "a"


async def test_a_model_that_only_announces_is_told_to_use_its_tools(running: Running) -> None:
    turns = ({"text": "I will look at it."}, call("list_files"), finish())
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url))
        told = server.requests[1]["messages"][-1]["content"]
        choices = {request.get("tool_choice") for request in server.requests}
    assert outcome.reason is Reason.COMPLETED
    assert "Nothing was done yet" in told
    assert choices == {"auto"}, "no request forces a call"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ("nothing_to_change", Reason.NOTHING_TO_CHANGE, "The agent found nothing to change."),
        ("cannot", Reason.CANNOT_BE_DONE, "The agent cannot do this: The file is not here."),
    ],
)
async def test_the_model_may_say_that_nothing_is_to_be_done(
    running: Running, status: str, reason: Reason, message: str
) -> None:
    with model_server(script(finish("The file is not here.", status))) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert (outcome.reason, outcome.message) == (reason, message)


async def test_the_key_is_seen_nowhere(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shows_key = call("run_command", command=f"echo {API_KEY}")
    overload = {"error": {"status": 503, "message": f"overloaded, {API_KEY}"}}
    with model_server(script(shows_key, overload, finish(f"The key is {API_KEY}"))) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert outcome.reason is Reason.COMPLETED
    kinds = [message.kind for message in read(running.transcript)]
    assert kinds == ["request", "response"] * 2
    assert "called run_command" in recap(running.transcript)
    assert API_KEY not in running.transcript.read_text()
    assert "***" in running.transcript.read_text()
    assert API_KEY not in repr(running.steps)
    assert API_KEY not in repr(outcome)
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("coding_agent")
    )
    assert "retrying in" in ours
    assert API_KEY not in ours
    # The SDK logs whole requests at DEBUG, what the model was told included; the header is not among them.
    assert f"Bearer {API_KEY}" not in caplog.text
