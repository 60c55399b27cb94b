"""Writes the reference pages. A test checks that they are up to date."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from coding_agent_docs.agenttask_reference import agenttask_page
from coding_agent_docs.errors import DocsError
from coding_agent_docs.metrics_reference import metrics
from coding_agent_docs.paths import AGENTTASK, CHART_SCHEMA, CONFIGURATION, LABELS, METRICS
from coding_agent_docs.settings_reference import Group, Key, groups, with_forges_together
from coding_agent_docs.states_reference import states_section

_CONFIGURATION = """\
# Configuration reference

<!-- Generated from the settings types by `python -m coding_agent_docs reference`. Do not edit. -->

Settings come from three sources. Each source overrides the one before it:

1. the defaults below
2. the file: `--config FILE`, else `CONFIG_FILE`, else `config.yaml` in the current folder
3. environment variables

With Helm, write the settings below `config:` in the values, except
[those that the chart sets itself](#what-the-chart-sets-itself). In the file, `${VAR}` is replaced by an
environment variable, `${VAR:-text}` by a variable with a default, and `$$` by a dollar sign. If a key is
unknown or a value is wrong, the program stops with exit status 78, and the error names the key and its line.

## Secrets

A secret is a text (`"${GITHUB_WEBHOOK_SECRET}"`), a list of texts while you rotate it, or
`{files: [PATH, …]}`. The programs read files again when they change, so you can rotate a mounted Kubernetes
Secret without a restart. Instead of the environment variable of a secret you can set the variable with
`_FILE` after its name, to the path of a file.
"""

_CHART = """\

## What the chart sets itself

The chart refuses these keys below `config:`. The second column names the value to use instead, if there
is one.

| key | value of the chart |
|---|---|
"""

_METRICS = """\
# Metrics

<!-- Generated from the programs by `python -m coding_agent_docs reference`. Do not edit. -->

Every long-running program serves `GET /metrics` in the text format of Prometheus: the receiver on port 8000,
the operator and the reporter on port 8080, a consumer of RabbitMQ and the token service of a GitHub App on
port 8081, `--mode producer --loop` on port 8082. In one process, the receiver's port has the metrics of all
parts. An attempt and a single poll end too soon to be scraped. The operator counts attempts, and the CronJob
shows whether polls succeed. If a client does not ask for text, the receiver answers with a JSON summary.
Python's and the process's own metrics (`process_resident_memory_bytes`, …) are included.
"""


_STATES = """\

For each state of a task: the phase and reason in its status, the label that the item has, and what the
comment on the item says. The last line of each comment has the time, the attempt and the name of the task.
The examples are of a task for issue 7 of `octo/demo`. GitLab shows the same, with a merge request in place
of the pull request. A rate limit or an outage of the forge can delay what the item
shows; the task's condition `Reported` is then False.
"""

_STATES_MARK = (
    "<!-- Generated from the programs by `python -m coding_agent_docs reference`, up to the end mark. "
    "Do not edit. -->"
)
_END_MARK = "<!-- end -->"

_AGENTTASK = """\
# AgentTask

<!-- Generated from the CRD and the programs by `python -m coding_agent_docs reference`. Do not edit. -->

An `AgentTask` (`coding-agent.dev/v1alpha1`, short name `agt`) is the work on one item for one application of
the label. The receiver creates it; [a person can too](../kubectl.md#a-task-without-a-label).
`kubectl explain agenttask.spec` shows the same fields. The limit of a string is in characters. [What the item
shows](../labels.md#what-the-item-shows) has the comment for each state.
"""


def pages() -> dict[Path, str]:
    """Return the text that each reference page must have."""
    return {
        CONFIGURATION: configuration(),
        METRICS: metrics_page(),
        LABELS: with_states(LABELS.read_text(encoding="utf-8")),
        AGENTTASK: agenttask_page(_AGENTTASK),
    }


def with_states(text: str) -> str:
    """Return the page on labels with the states as the programs show them now.

    Raises:
        DocsError: the page has no place for them.
    """
    before, mark, rest = text.partition(_STATES_MARK)
    _, end, after = rest.partition(_END_MARK)
    if not mark or not end:
        raise DocsError(f"{LABELS} has no {_STATES_MARK} … {_END_MARK}")
    return f"{before}{mark}\n{states_section(_STATES)}\n{_END_MARK}{after}"


def write() -> list[Path]:
    """Write the pages that have changed, and return their paths."""
    changed = []
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def configuration() -> str:
    """Return the page of the settings."""
    shown = [group for group in with_forges_together(list(groups())) if group.keys]
    first: dict[tuple[Key, ...], str] = {}
    sections = "".join(
        _section(group, like=first.setdefault(_relative(group), group.path)) for group in shown
    )
    return _CONFIGURATION + sections + _CHART + "".join(_chart_rows())


def _chart_rows() -> Iterator[str]:
    spec = importlib.util.spec_from_file_location("schema", CHART_SCHEMA)
    if spec is None or spec.loader is None:
        raise DocsError(f"{CHART_SCHEMA} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in module.CHART_SETS.items():
        yield f"| `{key}` | {f'`{value}`' if value else ''} |\n"


def _relative(group: Group) -> tuple[Key, ...]:
    """Return the keys with their names alone, which are the same in sections of one type."""
    return tuple(replace(key, path=key.path.rpartition(".")[2]) for key in group.keys)


def _section(group: Group, *, like: str) -> str:
    """Return a section of the page. `like` is the first section with the same keys, or this one."""
    title = f"`{group.path}`" if group.path else "Top level"
    if like != group.path:
        return f"\n## {title}\n\nIt has the keys of `{like}`.\n"
    rows = [
        f"| {key.path} | {_cell(key.type)} | {_cell(key.default)} | {key.variable} | {_cell(key.meaning)} |\n"
        for key in group.keys
    ]
    head = "| key | type | default | environment | meaning |\n|---|---|---|---|---|\n"
    meaning = f"{group.meaning}\n\n" if group.path and group.meaning else ""
    return f"\n## {title}\n\n{meaning}{head}{''.join(rows)}"


def metrics_page() -> str:
    """Return the page of the metrics."""
    text = _METRICS
    program = ""
    for metric in metrics():
        if metric.program != program:
            program = metric.program
            text += (
                f"\n## {program.capitalize()}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n"
            )
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        text += f"| `{metric.name}` | {metric.kind} | {labels} | {_cell(metric.meaning)} |\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
