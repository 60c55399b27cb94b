"""Each runner reads what its program wrote when it was tried; the recordings are beside this file."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_consumer.agent.model_spec import with_task_options
from coding_agent_consumer.agent_interface import Image
from coding_agent_consumer.modes import check_model
from coding_agent_consumer.runners import (
    AgentMessage,
    Event,
    Failed,
    Runner,
    RunnerInput,
    ToolCall,
    ToolResult,
    Warned,
)
from coding_agent_consumer.runners.agent import (
    conversation_in,
    events_of,
    files_of,
    note_about,
    outcome_of_end,
    runner_of,
    section_of,
)
from coding_agent_consumer.runners.programs import RUNNERS, command_runner
from coding_agent_consumer.workspace.protocol import ProcessResult
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import RUNNER_FORMATS, Settings
from coding_agent_core.task.model import item_of
from coding_agent_core.task.reasons import REASONS, Reason
from coding_agent_core.task.runners import RunnerName
from pydantic import ValidationError

RECORDED = Path(__file__).parent / "recorded"
COMMAND = "echo made > made.txt; cat made.txt"
WORDS = "Done: made.txt is there."
ORDER = RunnerInput(
    url="http://127.0.0.1:4000",
    credential="gateway-dummy",
    model="the-model",
    instructions='Follow the "rules".\nAll. \x7f 😀',
    prompt="Make a file.",
    context_length=32_768,
    max_output=4_096,
    images=(".coding-agent/images/1.png",),
)
ARGUMENT = 128 * 1024
"""Bytes of the longest argument or variable that Linux takes."""


def recorded(name: RunnerName, what: str = "") -> list[Event]:
    lines = (RECORDED / f"{name}{what}.jsonl").read_bytes().splitlines()
    events = [event for line in lines for event in events_of(RUNNERS[name], line)]
    return [event for event in events if not isinstance(event, Warned)]  # Codex does not know the model


@pytest.mark.parametrize("name", RUNNERS)
def test_a_conversation_is_named_and_continued_by_its_name(name: RunnerName) -> None:
    lines = (RECORDED / f"{name}.jsonl").read_bytes().splitlines()
    named = {conversation_in(RUNNERS[name], line) for line in lines} - {""}
    [conversation] = named
    fresh = RUNNERS[name].launch(ORDER).process.argv
    again = RUNNERS[name].launch(replace(ORDER, conversation=conversation, prompt="Fix it.", images=()))
    assert conversation in again.process.argv
    assert conversation not in fresh
    assert again.input.endswith("Fix it.")
    hostile = json.dumps({"session_id": "--dangerous", "thread_id": "--x", "sessionID": "--y"}).encode()
    assert conversation_in(RUNNERS[name], hostile) == ""


@pytest.mark.parametrize("name", RUNNERS)
def test_a_run_shows_its_call_its_result_and_its_last_words(name: RunnerName) -> None:
    called, returned, said = recorded(name)
    assert isinstance(called, ToolCall)
    assert COMMAND in called.arguments["command"]
    assert isinstance(returned, ToolResult)
    assert (returned.id, returned.text.strip(), returned.failed) == (called.id, "made", False)
    assert isinstance(said, AgentMessage)
    assert said.text == WORDS


@pytest.mark.parametrize(
    ("name", "what", "status"),
    [
        *((RunnerName.CLAUDE_CODE, f"-{status}", status) for status in (402, 429, 500)),
        *((RunnerName.CODEX, f"-{seen}", status) for seen, status in ((402, 402), (429, 429), (500, 503))),
        (RunnerName.OPENCODE, "-402", 402),
    ],
)
def test_a_refused_request_is_a_failure_with_its_status(name: RunnerName, what: str, status: int) -> None:
    (failed,) = recorded(name, what)
    assert isinstance(failed, Failed)
    assert failed.status == status


REFUSED_BY_LLAMA_CPP = (
    "request (604 tokens) exceeds the available context size (256 tokens), try increasing it"
)
"""What a real llama.cpp answered with status 400."""


def test_codex_shows_the_body_alone_if_a_request_was_wrong() -> None:
    body = json.dumps({"error": {"code": 400, "message": "Cannot determine type of 'item'"}})
    line = json.dumps({"type": "turn.failed", "error": {"message": body}}).encode()
    assert list(events_of(RUNNERS[RunnerName.CODEX], line)) == [Failed(body, 400)]


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        (RunnerName.CLAUDE_CODE, Failed("Prompt is too long")),
        (RunnerName.CODEX, Failed(json.dumps({"error": {"message": REFUSED_BY_LLAMA_CPP}}), 400)),
        (RunnerName.OPENCODE, Failed(REFUSED_BY_LLAMA_CPP)),
    ],
)
def test_what_does_not_fit_the_context_is_not_tried_again(name: RunnerName, failure: Failed) -> None:
    outcome = outcome_of_end(RUNNERS[name], ProcessResult(1, ""), failure, "", requests=0)
    assert outcome.reason is Reason.LIMIT_REACHED
    assert not REASONS[outcome.reason].outcome_class.retried
    assert "context_length" in outcome.message
    # A crash may speak of anything, and a service that is down too.
    crashed = outcome_of_end(RUNNERS[name], ProcessResult(1, failure.message), None, "", requests=1)
    assert crashed.reason is Reason.RUNNER_FAILED
    down = outcome_of_end(RUNNERS[name], ProcessResult(1, ""), Failed(failure.message, 503), "", requests=1)
    assert down.reason is Reason.MODEL_UNAVAILABLE


@pytest.mark.parametrize(
    ("name", "failure", "exit_code", "reason"),
    [
        (RunnerName.CLAUDE_CODE, None, 0, Reason.COMPLETED),
        (RunnerName.CLAUDE_CODE, Failed("no", 401), 1, Reason.MODEL_REFUSED),
        (RunnerName.CLAUDE_CODE, Failed("no", 402), 1, Reason.MODEL_REFUSED),
        (RunnerName.CLAUDE_CODE, Failed("later", 429), 1, Reason.MODEL_UNAVAILABLE),
        (RunnerName.CODEX, Failed("later", 503), 1, Reason.MODEL_UNAVAILABLE),
        (RunnerName.CLAUDE_CODE, Failed("error_during_execution"), 1, Reason.RUNNER_FAILED),
        (RunnerName.CODEX, None, 139, Reason.RUNNER_FAILED),
        (RunnerName.CODEX, None, 1, Reason.RUNNER_FAILED),
        (RunnerName.CODEX, None, None, Reason.RUNNER_FAILED),
        (RunnerName.GEMINI, Failed("billing"), 146, Reason.MODEL_REFUSED),
        (RunnerName.GEMINI, None, 173, Reason.MODEL_UNAVAILABLE),
        (RunnerName.GEMINI, None, 41, Reason.RUNNER_FAILED),
    ],
)
def test_the_end_of_the_program_decides_the_reason(
    name: RunnerName, failure: Failed | None, exit_code: int | None, reason: Reason
) -> None:
    result = ProcessResult(exit_code, "warning\nsegmentation fault\n")
    outcome = outcome_of_end(RUNNERS[name], result, failure, "What I did.", requests=1)
    assert outcome.reason is reason
    if reason is Reason.COMPLETED:
        assert outcome.summary == "What I did."
    elif failure is None:
        assert "segmentation fault" in outcome.message


def test_a_service_that_asks_for_a_wait_gets_it_also_from_a_program() -> None:
    runner, failure = RUNNERS[RunnerName.CLAUDE_CODE], Failed("later", 429)
    outcome = outcome_of_end(runner, ProcessResult(1, ""), failure, "", requests=1, asked=900)
    assert (outcome.reason, outcome.retry_after) == (Reason.MODEL_UNAVAILABLE, 900)
    assert "It asks for a wait of 900 s." in outcome.message
    refused = outcome_of_end(runner, ProcessResult(1, ""), Failed("no", 401), "", requests=1, asked=900)
    assert refused.retry_after is None


@pytest.mark.parametrize("runner", [*RUNNERS.values(), command_runner(["work"])], ids=lambda one: one.name)
def test_success_without_a_request_to_the_model_is_a_failure(runner: Runner) -> None:
    cut = outcome_of_end(runner, ProcessResult(0, "", truncated=True), None, "", requests=1)
    assert cut.reason is Reason.RUNNER_FAILED, "too much output"
    outcome = outcome_of_end(runner, ProcessResult(0, ""), None, "Words of another model.", requests=0)
    assert outcome.reason is Reason.RUNNER_FAILED
    assert "without a request to the model through the gateway" in outcome.message
    assert outcome.summary == ""


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"npm warn", b"[]", b"1e400", b'{"type": 3}', b'{"type": "user", "message": "text"}'),
        *(b'{"type": "%s", "item": 3, "part": [], "error": "x"}' % kind for kind in (b"error", b"text")),
        *(b'{"type":"assistant","message":{"content":[1,{"type":"text","text":{}}]}}', b"[" * 100_000),
    ],
)
def test_a_line_that_is_not_understood_is_left_out(name: RunnerName, line: bytes) -> None:
    assert all(not getattr(event, "text", "") for event in events_of(RUNNERS[name], line))


def test_half_of_an_emoji_becomes_a_question_mark() -> None:
    line = rb'{"type":"turn.failed","error":{"message":"cut \ud83d, whole \ud83d\ude00"}}'
    [failed] = events_of(RUNNERS[RunnerName.CODEX], line)
    assert isinstance(failed, Failed)
    assert failed.message == "cut ?, whole 😀"
    result = ProcessResult(1, "")
    outcome = outcome_of_end(RUNNERS[RunnerName.CODEX], result, failed, "", requests=1)
    assert "cut ?, whole 😀" in outcome.model_dump_json()


@pytest.mark.parametrize("name", RUNNERS)
def test_the_program_gets_the_gateway_and_the_dummy(name: RunnerName) -> None:
    launch = RUNNERS[name].launch(ORDER)
    process = launch.process
    texts = [launch.input, *process.argv, *process.env.values(), *map(str, process.files.values())]
    for wanted in (ORDER.url, ORDER.credential, ORDER.model, ORDER.prompt):
        assert any(wanted in text for text in texts), wanted
    if name is RunnerName.CODEX:
        config = tomllib.loads(str(process.files[".codex/config.toml"]))
        assert config == {"developer_instructions": ORDER.instructions}
    else:
        assert any(ORDER.instructions in text for text in texts)
    assert ORDER.credential not in " ".join(process.argv), "other users of the machine see arguments"
    assert ORDER.credential not in repr(process)


@pytest.mark.parametrize("runner", [*RUNNERS.values(), command_runner(["work"])], ids=lambda one: one.name)
def test_long_instructions_are_in_no_argument_and_no_variable(runner: Runner) -> None:
    process = runner.launch(replace(ORDER, instructions="Follow. " * ARGUMENT)).process
    texts = [*process.argv, *(f"{name}={value}" for name, value in process.env.items())]
    assert max(len(text.encode()) for text in texts) < ARGUMENT


def test_codex_uses_no_skill_that_the_prompt_could_name() -> None:
    linked = "[$5](skill:///tree/.agents/skills/a b/SKILL.md) [$six] ( /x/SKILL.md )"
    prompt = f"Use $one. x$tw-o:3 $four\u00e9 {linked}"
    process = RUNNERS[RunnerName.CODEX].launch(replace(ORDER, prompt=prompt)).process
    config = tomllib.loads(str(process.files[".codex/config.toml"]))
    assert config["developer_instructions"] == ORDER.instructions
    selectors = config["skills"]["config"]
    assert {one.pop("enabled") for one in selectors} == {False}
    names = {value for one in selectors for value in one.values()}
    paths = {"/tree/.agents/skills/a b/SKILL.md", "/x/SKILL.md"}
    assert names == {"one", "tw-o:3", "four", "5", "six"} | paths


@pytest.mark.parametrize(("context", "compacts_at"), [(99_999, None), (100_000, "100000")])
def test_claude_code_and_opencode_know_the_models_limits(context: int, compacts_at: str | None) -> None:
    env = RUNNERS[RunnerName.CLAUDE_CODE].launch(replace(ORDER, context_length=context)).process.env
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(context)
    assert env.get("CLAUDE_CODE_AUTO_COMPACT_WINDOW") == compacts_at
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "4096"
    config = RUNNERS[RunnerName.OPENCODE].launch(ORDER).process.env["OPENCODE_CONFIG_CONTENT"]
    model = json.loads(config)["provider"]["gateway"]["models"]["the-model"]
    assert model["limit"] == {"context": 32_768, "output": 4_096}
    assert "image" in model["modalities"]["input"]


def test_images_are_files_that_the_prompt_names() -> None:
    images = [
        Image("https://forge.example/a.png", "image/png", b"one"),
        Image("/uploads/b\n\n# Rules", "image/jpeg", b"two"),
    ]
    assert files_of(images) == {
        f".coding-agent/images/{n}": d for n, d in (("1.png", b"one"), ("2.jpeg", b"two"))
    }
    note = note_about(images)
    assert "`~/.coding-agent/images/1.png`: https://forge.example/a.png\n" in note
    assert "`~/.coding-agent/images/2.jpeg`: /uploads/b # Rules" in note, "a link is one line"


def test_any_command_gets_the_gateway_in_the_variables_that_clients_know() -> None:
    runner = command_runner(["sh", "-c", "run"])
    launch = runner.launch(ORDER)
    assert launch.process.env["OPENAI_BASE_URL"] == "http://127.0.0.1:4000/v1"
    assert launch.process.env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert [*events_of(runner, b"a line")] == [AgentMessage("a line\n", continues=True)]


ANTHROPIC = {"provider": "anthropic", "anthropic": {"api_key": "k"}}
OPENAI = {"provider": "openai", "openai": {"api_key": "k"}}


@pytest.mark.parametrize(
    ("name", "settings", "refused"),
    [
        (RunnerName.CLAUDE_CODE, {"llm": ANTHROPIC}, None),
        (RunnerName.CODEX, {"llm": OPENAI}, None),
        (RunnerName.CLAUDE_CODE, {"llm": OPENAI}, "claude-code speaks the format of anthropic"),
        (RunnerName.COMMAND, {"llm": OPENAI}, "consumer.command is not set"),
        (RunnerName.COMMAND, {"llm": OPENAI, "consumer": {"command": ["work"]}}, None),
    ],
)
def test_a_runner_that_cannot_work_says_which_setting_to_change(
    name: RunnerName, settings: dict[str, object], refused: str | None
) -> None:
    given = Settings.model_validate(settings)
    if refused is None:
        assert runner_of(name, given).name == name
        return
    with pytest.raises(SettingsError, match=refused):
        runner_of(name, given)


@pytest.mark.parametrize(
    "section",
    [
        {"consumer": {"runner": "claude-code"}},
        {"consumer": {"runners": {"team/*": "claude-code"}}},
        {"repository_environment": {"runners": ["builtin", "claude-code"]}},
    ],
)
def test_a_program_does_not_start_with_a_runner_that_cannot_work(section: dict[str, object]) -> None:
    check_model(Settings.model_validate({"llm": ANTHROPIC, **section}))
    with pytest.raises(ValidationError, match="claude-code speaks only the format of anthropic"):
        Settings.model_validate({"llm": OPENAI, **section})
    keyed = Settings.model_validate({"llm": {**OPENAI, "anthropic": {"api_key": "k"}}, **section})
    check_model(keyed)
    assert Settings.model_validate({"llm": OPENAI, "user_config_api": {"enabled": True}, **section})


@pytest.mark.parametrize(
    ("name", "vendor"),
    [(RunnerName.CODEX, "openai"), (RunnerName.CLAUDE_CODE, "anthropic"), (RunnerName.GEMINI, "google")],
)
@pytest.mark.parametrize("of_the_task", [None, "of-the-task"])
def test_a_program_asks_for_the_model_of_the_service_that_speaks_its_format(
    name: RunnerName, vendor: str, of_the_task: str | None
) -> None:
    keyed = {each: {"api_key": "k", "model": f"{each}-x"} for each in ("openai", "anthropic", "google")}
    settings = Settings.model_validate({"llm": {"provider": "openai", **keyed}})
    item = item_of("https://github.com/acme/pricing/issues/1")
    settings = with_task_options(settings, item, runner=name, model=of_the_task)
    section = section_of(RUNNERS[name], settings)
    assert section.model == (of_the_task or f"{vendor}-x")
    assert section is getattr(settings.llm, vendor)
    assert RUNNERS.keys() == RUNNER_FORMATS.keys()
