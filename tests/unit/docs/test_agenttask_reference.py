"""The page about AgentTask names exactly the conditions, waiting reasons and Events of the programs."""

import ast
from collections.abc import Iterator
from pathlib import Path

from coding_agent_core.task.agenttask import OutcomeType
from coding_agent_docs.agenttask_reference import CONDITIONS, EVENTS, WAITING
from coding_agent_docs.paths import ROOT
from coding_agent_operator.reporter.item_plan import CORRECTION_EVENTS
from coding_agent_operator.tasks import plan

OPERATOR = ROOT / "operator" / "src" / "coding_agent_operator"
REFUSED = {"ForgeRefused", "ForgeNotConfigured"}
"""Reasons that forge_worker.py chooses between before it makes the Event."""


def calls(path: Path, *names: str) -> Iterator[ast.Call]:
    """The calls of these functions in a module, as `name(…)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def test_the_events_are_those_of_the_programs() -> None:
    emitted = {
        reason
        for module in OPERATOR.rglob("*.py")
        for call in calls(module, "Event")
        if len(call.args) > 1 and (reason := text(call.args[1])) is not None
    }
    emitted |= {f"Attempt{outcome}" for outcome in OutcomeType}
    emitted |= {reason for reason, _ in CORRECTION_EVENTS.values()} | REFUSED
    assert emitted == set(EVENTS)


def test_the_conditions_are_those_of_the_programs() -> None:
    modules = (OPERATOR / "tasks" / "plan.py", OPERATOR / "reporter" / "report.py")
    set_ = {text(call.args[0]) for module in modules for call in calls(module, "condition", "_condition")}
    assert set_ == set(CONDITIONS)


def test_the_waiting_reasons_are_those_of_the_programs() -> None:
    tree = ast.parse((OPERATOR / "tasks" / "plan.py").read_text(encoding="utf-8"))
    found = {plan.OPERATOR_DEFECT}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in ("_summary", "_summary_of_active"):
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                    found |= set(reasons(node.value.elts[1]))
    assert found == set(WAITING)


def reasons(node: ast.expr) -> Iterator[str]:
    """The reasons that an expression can be, without those of the table of ended attempts."""
    match node:
        case ast.Constant(value=str(reason)):
            yield reason
        case ast.Name(id=name):
            yield getattr(plan, name)
        case ast.BoolOp(values=alternatives):
            for alternative in alternatives:
                yield from reasons(alternative)
