"""Lint for tests that a busy machine turns red: ``python -m coding_agent_testbed.tiers.clocks FOLDER…``.

It finds upper bounds on a clock, short time limits that must not expire, and waits that are no condition. A
line says with a comment that it is meant: `# meant to expire` after a short limit, `# not a wait` after a
sleep that is the pace of a stand-in. A test marked `long` may look at a clock.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time", "now"}
"""Functions and methods that read a clock. `time` and `now` count only as a call of a module or a class."""
OF_A_MODULE = {"time": "time", "now": "datetime"}
LIMIT = re.compile(r"timeout|lease|heartbeat|grace|patience", re.IGNORECASE)
SHORTEST_S = 5
"""A machine that runs all tests stands still for some seconds."""
EXPIRES = "# meant to expire"
NOT_A_WAIT = "# not a wait"


@dataclass(frozen=True, order=True)
class Finding:
    """A line, and what is wrong with it."""

    line: int
    text: str


def findings(source: str) -> list[Finding]:
    """What a test's source has of these.

    Args:
        source: a module's text.

    Raises:
        SyntaxError: it is no Python.
    """
    lines = source.splitlines()
    tree = ast.parse(source)
    found = [*_bounds(tree), *_short_limits(tree, lines), *_sleeps(tree, lines)]
    return sorted(set(found))


def _bounds(tree: ast.Module) -> Iterator[Finding]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or _is_long(function):
            continue
        measured = {
            name.id
            for statement in ast.walk(function)
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.BinOp)
            if any(map(_reads_a_clock, ast.walk(statement.value))) and isinstance(statement.value.op, ast.Sub)
            for target in statement.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        }
        for statement in ast.walk(function):
            if isinstance(statement, ast.Assert) and _is_bound(statement.test, measured):
                yield Finding(
                    statement.lineno, "an upper bound on a clock: assert the cause, or mark it `long`"
                )


def _is_bound(test: ast.expr, measured: set[str]) -> bool:
    for part in ast.walk(test):
        if not isinstance(part, ast.Compare):
            continue
        sides = [part.left, *part.comparators]
        for left, operator, right in zip(sides, part.ops, sides[1:], strict=False):
            smaller = {ast.Lt: left, ast.LtE: left, ast.Gt: right, ast.GtE: right}.get(type(operator))
            if smaller is not None and any(
                _reads_a_clock(one) or (isinstance(one, ast.Name) and one.id in measured)
                for one in ast.walk(smaller)
            ):
                return True
    return False


def _reads_a_clock(part: ast.AST) -> bool:
    if not isinstance(part, ast.Call):
        return False
    if isinstance(part.func, ast.Name):
        return part.func.id in CLOCKS - OF_A_MODULE.keys()
    if not isinstance(part.func, ast.Attribute) or part.func.attr not in CLOCKS:
        return False
    owner = OF_A_MODULE.get(part.func.attr)
    return owner is None or (isinstance(part.func.value, ast.Name) and part.func.value.id == owner)


def _is_long(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("pytest.mark.long") for decorator in function.decorator_list)


def _short_limits(tree: ast.Module, lines: Sequence[str]) -> Iterator[Finding]:
    for name, value in _named_values(tree):
        seconds = value.value if isinstance(value, ast.Constant) else None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not LIMIT.search(name):
            continue
        # 0 switches a limit off, or is its end at once: a machine cannot be late for either.
        if 0 < seconds < SHORTEST_S and EXPIRES not in lines[value.lineno - 1]:
            yield Finding(
                value.lineno,
                f"{name} is below {SHORTEST_S} s: give it more, or end the line with `{EXPIRES}`",
            )


def _named_values(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for part in ast.walk(tree):
        if isinstance(part, ast.keyword) and part.arg:
            yield part.arg, part.value
        elif isinstance(part, ast.Dict):
            for key, value in zip(part.keys, part.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value
        elif isinstance(part, ast.Assign):
            for target in part.targets:
                if isinstance(target, ast.Name | ast.Attribute):
                    yield target.id if isinstance(target, ast.Name) else target.attr, part.value
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value:
            yield part.target.id, part.value


def _sleeps(tree: ast.Module, lines: Sequence[str]) -> Iterator[Finding]:
    for part in ast.walk(tree):
        if not isinstance(part, ast.Call) or NOT_A_WAIT in lines[part.lineno - 1]:
            continue
        function = ast.unparse(part.func)
        zero = bool(part.args) and isinstance(part.args[0], ast.Constant) and part.args[0].value == 0
        if function in ("time.sleep", "asyncio.sleep", "anyio.sleep") and not zero:
            yield Finding(
                part.lineno,
                f"a sleep: wait for a condition with `until`, or end the line with `{NOT_A_WAIT}`",
            )


def main(arguments: Sequence[str]) -> int:
    """Print what is found in the files below these folders; 1 if there is something."""
    files = [file for folder in arguments for file in sorted(Path(folder).rglob("*.py"))]
    count = 0
    for file in files:
        for finding in findings(file.read_text(encoding="utf-8")):
            print(f"{file}:{finding.line}: {finding.text}")
            count += 1
    return int(count > 0 or not files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
