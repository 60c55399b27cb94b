"""When an attempt leads nowhere: the table of cases."""

from __future__ import annotations

from functools import partial

import pytest
from coding_agent_consumer.agent.failures import CallResult, CallStatus, Round, reached
from coding_agent_core.reasons import Reason

end_of = partial(reached, tool_errors=3, setting="llm.openai")


def ok(arguments: str = "{}", text: str = "fine", tool: str = "read_file") -> Round:
    return Round((CallResult(tool, arguments, CallStatus.OK, text),), usable=True)


def failed(arguments: str = "{}", tool: str = "read_file") -> Round:
    return Round((CallResult(tool, arguments, CallStatus.FAILED, "No such file."),), usable=True)


def malformed(number: int = 0) -> Round:
    return Round((CallResult("read_file", str(number), CallStatus.MALFORMED, "bad"),), usable=False)


NO_CALL = Round((), usable=False)
CUT = Round((), usable=False, cut=True)
VARIED = [ok(str(number)) for number in range(30)]


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [
        pytest.param([], None, id="nothing done yet"),
        pytest.param(VARIED, None, id="different steps may go on for ever"),
        pytest.param([failed("1"), failed("2")], None, id="two errors of a tool"),
        pytest.param([failed("1"), failed("2"), failed("3")], Reason.TOOL_FAILING, id="three in a row"),
        pytest.param(
            [failed("1"), failed("2"), ok("3"), failed("4"), failed("5")], None, id="a success in between"
        ),
        pytest.param(
            [failed("1"), ok("a", tool="list_files"), failed("2"), ok("b", tool="list_files"), failed("3")],
            Reason.TOOL_FAILING,
            id="another tool's success does not count",
        ),
        pytest.param(
            [failed("1", "read_file"), failed("2", "edit_file"), failed("3", "search_files")],
            None,
            id="three tools once each",
        ),
        pytest.param([malformed(n) for n in range(4)], None, id="four malformed answers"),
        pytest.param([malformed(n) for n in range(5)], Reason.MODEL_MALFORMED, id="five malformed answers"),
        pytest.param([NO_CALL] * 5, Reason.MODEL_MALFORMED, id="five answers without a call"),
        pytest.param([CUT] * 5, Reason.MODEL_MALFORMED, id="five answers that were cut off"),
        pytest.param([*[NO_CALL] * 4, ok(), NO_CALL], None, id="a usable answer in between"),
        pytest.param([*VARIED, *[ok("same")] * 4], None, id="the same four times"),
        pytest.param([*VARIED, *[ok("same")] * 5], Reason.LIMIT_REACHED, id="the same five times"),
        pytest.param([ok("a"), ok("b")] * 5, Reason.LIMIT_REACHED, id="there and back, five times"),
        pytest.param([ok("a"), ok("b"), ok("c"), ok("d")] * 5, Reason.LIMIT_REACHED, id="a cycle of four"),
        pytest.param(
            [ok("t", f"Ran 5 tests in 0.00{n}s") for n in range(5)],
            Reason.LIMIT_REACHED,
            id="times in the output do not make a difference",
        ),
        pytest.param(
            [ok("t", f"{n} failures") for n in range(5)],
            None,
            id="the same call with another result is progress",
        ),
    ],
)
def test_when_to_stop(rounds: list[Round], reason: Reason | None) -> None:
    stop = end_of(rounds)
    assert (stop.reason if stop else None) is reason


def test_answers_that_were_cut_off_name_the_setting_to_raise() -> None:
    stop = end_of([CUT] * 5)
    assert stop is not None
    assert stop.message == "The model's answers were cut off 5 times in a row; raise llm.openai.max_token."
