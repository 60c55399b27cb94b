"""Work in the background goes on after every error, and no endless loop of the programs is without that."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS, exposition, process_registry
from coding_agent_core.runtime.retry import Clock

ROOT = Path(__file__).parents[3]
PROGRAMS = (
    *(f"{name}/src" for name in ("core", "forges", "operator", "receiver", "services")),
    # An attempt turns its errors into its outcome.
    *(f"consumer/src/coding_agent_consumer/{name}" for name in ("queue", "rounds/scan.py")),
)
ENDS_ON_PURPOSE = {
    "app.py _read": "reads one body",
    "background.py forever": "`succeed` goes on",
    "connection.py lock": "a part of the connection, whose owner connects again",
    "consumer.py _consume": "`_serve` connects again",
    "consumer.py claims": "a generator: who reads it gets the error",
    "controller.py take": "waits for a key and asks nobody",
    "forge_worker.py _take": "waits for a task and asks nobody",
    "lease.py keep": "whoever cannot keep the Lease must not act",
    "publisher.py notices": "a generator: who reads it gets the error",
    "reporter_program.py _connect_when_possible": "at the start, for wrong settings",
    "watching.py watch": "a program whose watches have ended starts again",
}
"""Endless loops whose errors end more than one turn, and why."""


def endless_loops() -> Iterator[tuple[str, ast.While]]:
    for program in PROGRAMS:
        place = ROOT / program
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(function, ast.AsyncFunctionDef):
                    for loop in outermost_loops(function):
                        if ast.unparse(loop.test) == "True" or "stop" in ast.unparse(loop.test):
                            yield f"{file.name} {function.name}", loop


def outermost_loops(node: ast.AST) -> Iterator[ast.While]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.While):
            yield child
        elif not isinstance(child, ast.AsyncFunctionDef):
            yield from outermost_loops(child)


def goes_on(loop: ast.While) -> bool:
    """Whether a turn of the loop handles every exception."""
    return any(
        isinstance(handler.type, ast.Name) and handler.type.id == "Exception"
        for statement in loop.body
        for part in ast.walk(statement)
        if isinstance(part, ast.Try)
        for handler in part.handlers
    )


def test_no_endless_loop_ends_with_the_error_of_one_turn() -> None:
    fragile = {place for place, loop in endless_loops() if not goes_on(loop)}
    assert fragile == set(ENDS_ON_PURPOSE)


async def test_work_goes_on_after_each_kind_of_error(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[Exception | float] = [
        OverflowError("too many days"),
        CodingAgentError("the API server does not answer"),
        30.0,
        ValueError("a defect"),
        7.0,
    ]
    waits: list[float] = []

    async def once() -> float:
        turn = turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if not turns:
            raise asyncio.CancelledError

    before = BACKGROUND_ERRORS.labels("test")._value.get()
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await forever("test", once, Clock(sleep=sleep, chance=lambda: 1.0))
    assert waits == [1.0, 2.0, 30.0, 1.0, 7.0]
    assert BACKGROUND_ERRORS.labels("test")._value.get() == before + 2, (
        "a refusal of the API server is no defect"
    )
    assert "too many days" in caplog.text, "with its traceback"
    assert "test: the API server does not answer; next try in 2 s" in caplog.messages


def test_the_consumers_own_page_has_the_metric_too() -> None:
    BACKGROUND_ERRORS.labels("test")
    page, _ = exposition(process_registry(), "")
    assert b'coding_agent_background_errors_total{work="test"}' in page
