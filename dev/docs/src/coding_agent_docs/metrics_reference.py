"""The list of metrics, read from the source: every Counter, Gauge and Histogram that a program makes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from coding_agent_docs.paths import ROOT

_PROGRAMS = ("receiver", "operator", "consumer", "services", "core", "forges")
_KINDS = {kind: kind.lower() for kind in ("Counter", "Gauge", "Histogram", "Summary")}
"""The kind of a metric for Prometheus, by the class that makes it."""
PREFIX = "coding_agent_"


@dataclass(frozen=True, order=True)
class Metric:
    """One metric as Prometheus sees it: counters end in `_total`."""

    program: str
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def metrics(root: Path = ROOT) -> list[Metric]:
    """Return all metrics, sorted by program and name."""
    found = []
    for program in _PROGRAMS:
        for file in sorted((root / program / "src").rglob("*.py")):
            place = _place(file.relative_to(root / program / "src"))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (metric := _metric(node, place)):
                    found.append(metric)
    return sorted(found)


def _place(file: Path) -> str:
    """Return the program that a module belongs to. The operator's package also has the reporter."""
    package = file.parts[0].removeprefix(PREFIX).replace("_", "-")
    return "reporter" if "reporter" in file.parts else package


def _metric(call: ast.Call, program: str) -> Metric | None:
    kind = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    texts = [argument for argument in call.args if isinstance(argument, ast.Constant)]
    if kind not in _KINDS or len(texts) < 2 or not str(texts[0].value).startswith(PREFIX):
        return None
    name, meaning = str(texts[0].value), str(texts[1].value)
    labels = next((arg for arg in call.args[2:] if isinstance(arg, ast.List | ast.Tuple)), None)
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "labelnames"), labels)
    names = (
        tuple(str(elt.value) for elt in given.elts if isinstance(elt, ast.Constant))
        if isinstance(given, ast.List | ast.Tuple)
        else ()
    )
    if kind == "Counter":
        name = name.removesuffix("_total") + "_total"
    return Metric(program, name, _KINDS[kind], names, meaning.rstrip(".") + ".")
