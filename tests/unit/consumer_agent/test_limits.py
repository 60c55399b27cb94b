"""When an attempt leads nowhere: the table of cases."""

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


CASES: dict[str, tuple[list[Round], Reason | None]] = {
    "nothing done yet": ([], None),
    "different steps may go on for ever": (VARIED, None),
    "two errors of a tool": ([failed("1"), failed("2")], None),
    "three in a row": ([failed("1"), failed("2"), failed("3")], Reason.TOOL_FAILING),
    "a success in between": ([failed("1"), failed("2"), ok("3"), failed("4"), failed("5")], None),
    "another tool's success does not count": (
        [failed("1"), ok("a", tool="list_files"), failed("2"), ok("b", tool="list_files"), failed("3")],
        Reason.TOOL_FAILING,
    ),
    "three tools once each": ([failed("1", "a"), failed("2", "b"), failed("3", "c")], None),
    "four malformed answers": ([malformed(n) for n in range(4)], None),
    "five malformed answers": ([malformed(n) for n in range(5)], Reason.MODEL_MALFORMED),
    "five answers without a call": ([NO_CALL] * 5, Reason.MODEL_MALFORMED),
    "five answers that were cut off": ([CUT] * 5, Reason.MODEL_MALFORMED),
    "a usable answer in between": ([*[NO_CALL] * 4, ok(), NO_CALL], None),
    "the same four times": ([*VARIED, *[ok("same")] * 4], None),
    "the same five times": ([*VARIED, *[ok("same")] * 5], Reason.LIMIT_REACHED),
    "there and back, five times": ([ok("a"), ok("b")] * 5, Reason.LIMIT_REACHED),
    "a cycle of four": ([ok("a"), ok("b"), ok("c"), ok("d")] * 5, Reason.LIMIT_REACHED),
    "times make no difference": ([ok("t", f"5 tests in 0.00{n}s") for n in range(5)], Reason.LIMIT_REACHED),
    "another result is progress": ([ok("t", f"{n} failures") for n in range(5)], None),
}


@pytest.mark.parametrize(("rounds", "reason"), CASES.values(), ids=CASES)
def test_when_to_stop(rounds: list[Round], reason: Reason | None) -> None:
    stop = end_of(rounds)
    assert (stop.reason if stop else None) is reason


def test_answers_that_were_cut_off_name_the_setting_to_raise() -> None:
    stop = end_of([CUT] * 5)
    assert stop is not None
    assert stop.message == "The model's answers were cut off 5 times in a row; raise llm.openai.max_token."
