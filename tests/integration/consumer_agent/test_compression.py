"""Long conversations are compressed, and go on."""

from __future__ import annotations

from coding_agent_core.reasons import Reason

from tests.fixtures.model import call, finish, model_server, model_settings, script
from tests.integration.consumer_agent.running import Running, running

__all__ = ["running"]

SUMMARY = script({"text": "a.txt holds a; b.txt is next."}, match="^You work on a task", name="summary")
SMALL = {"openai": {"context_length": 8000}, "max_retries": 1}
STEPS = [call("run_command", command=f"echo step {number}") for number in range(6)]


async def test_over_the_threshold_older_messages_become_a_summary(running: Running) -> None:
    steps = [*STEPS[:4], {**STEPS[4], "prompt_tokens": 7000}]
    with model_server(SUMMARY, script(*steps, finish(), match="fix")) as server:
        settings = model_settings(server.base_url, llm=SMALL, context_storage={"keep_recent_messages": 3})
        outcome = await running.work(settings, "Please fix it.")
        after = server.requests[-1]
    assert outcome.reason is Reason.COMPLETED
    assert [request["script"] for request in server.requests] == ["test"] * 5 + ["summary", "test"]
    roles = [message["role"] for message in after["messages"]]
    assert " ".join(roles) in [
        f"system {users} assistant tool assistant tool" for users in ("user", "user user")
    ]
    text = str(after["messages"])
    assert "Please fix it." in text
    assert "a.txt holds a; b.txt is next." in text
    assert "step 4" in text
    assert "step 0" not in text
    assert outcome.usage.requests == 7, "the summary is counted too"
    assert [step.kind for step in running.steps].count("compress") == 1


async def test_where_the_summary_fails_a_list_of_the_steps_stands_in(running: Running) -> None:
    broken = script({"error": {"status": 500, "times": 0}}, match="^You work on a task", name="summary")
    steps = [*STEPS[:4], {**STEPS[4], "prompt_tokens": 7000}]
    with model_server(broken, script(*steps, finish(), match="fix")) as server:
        settings = model_settings(server.base_url, llm=SMALL, context_storage={"keep_recent_messages": 2})
        outcome = await running.work(settings, "Please fix it.")
        text = str(server.requests[-1]["messages"])
    assert outcome.reason is Reason.COMPLETED
    assert 'called run_command {"command":"echo step 0"}' in text.replace('": "', '":"')


async def test_one_huge_result_is_cut_to_fit(running: Running) -> None:
    huge = call("run_command", command="yes 'a line of output' | head -c 60000")
    with model_server(SUMMARY, script(huge, finish(), match="fix")) as server:
        settings = model_settings(server.base_url, llm=SMALL)
        outcome = await running.work(settings, "Please fix it.")
        result = server.requests[-1]["messages"][-1]["content"]
    assert outcome.reason is Reason.COMPLETED
    assert "cut to save room" in result
    assert len(result) < 20_000


async def test_what_never_fits_ends_with_a_sentence(running: Running) -> None:
    never = {"error": {"status": 400, "code": "context_length_exceeded", "times": 0}}
    with model_server(SUMMARY, script(*STEPS, never, match="fix")) as server:
        outcome = await running.work(model_settings(server.base_url), "Please fix it.")
        refused = [request for request in server.requests if request["status"] == 400]
    assert outcome.reason is Reason.LIMIT_REACHED
    assert "llm.openai.context_length" in outcome.message
    assert len(refused) == 4
