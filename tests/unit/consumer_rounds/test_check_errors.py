"""The errors in a check's log."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coding_agent_consumer.rounds.check_errors import errors_of
from coding_agent_core.forge.changes import ERRORS_LIMIT, CheckResult
from coding_agent_core.rounds.checks import fingerprints

from tests.unit.core_rounds.making import check

PYTEST = """\
Collecting pytest
  Downloading pytest-9.0.1.whl (365 kB)
tests/test_a.py ....F..                                        [ 70%]
tests/test_b.py ...                                            [100%]
    def test_total():
>       assert total() == 3
E       AssertionError: assert 2 == 3
tests/test_a.py:12: AssertionError
1 failed, 9 passed in 0.12s
Post job cleanup.
one
two
three
Cleaning up orphan processes
"""
GO = "ok  \texample.com/a\t0.01s\n--- FAIL: TestB (0.00s)\n    b_test.go:7: got 2, want 3\nFAIL\n"
TSC = "Build started\nsrc/a.ts(3,5): error TS2322: Type 'string' is not assignable to type 'number'.\n"


@pytest.mark.parametrize(
    ("log", "there", "missing"),
    [
        (PYTEST, ["assert total() == 3", "E       AssertionError: assert 2 == 3"], ["Downloading", "orphan"]),
        (GO, ["--- FAIL: TestB", "b_test.go:7: got 2, want 3"], []),
        (TSC, ["error TS2322"], []),
        ("It broke.", ["It broke."], []),
        ("0 errors\nno failures\nend", ["end"], []),
        ("", [], []),
    ],
)
def test_the_lines_that_say_why(log: str, there: list[str], missing: list[str]) -> None:
    found = errors_of(log)
    assert [text for text in there if text not in found] == []
    assert [text for text in missing if text in found] == []


def test_a_long_log_keeps_its_last_errors() -> None:
    found = errors_of("".join(f"error {number}\n" for number in range(5_000)))
    assert len(found) <= ERRORS_LIMIT
    assert found.endswith("error 4999")


def _faster(log: str) -> str:
    return log.replace("0.12s", "0.34s").replace("365 kB", "412 kB")


def _slower_setup(log: str) -> str:
    return "Downloading numpy\n" * 40 + log


def _next_line(log: str) -> str:
    return log.replace("tests/test_a.py:12", "tests/test_a.py:14")


def _other_error(log: str) -> str:
    return log.replace("assert 2 == 3", "assert 4 == 3")


@pytest.mark.parametrize(
    ("change", "same"), [(_faster, True), (_slower_setup, True), (_next_line, True), (_other_error, False)]
)
def test_equal_failures_have_equal_fingerprints(change: Callable[[str], str], *, same: bool) -> None:
    def failed(log: str) -> CheckResult:
        return check(errors=errors_of(log))

    assert (fingerprints([failed(PYTEST)]) == fingerprints([failed(change(PYTEST))])) is same
