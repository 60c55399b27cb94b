"""Polling never reaches strangers' items by accident."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_core.settings import load_settings
from coding_agent_receiver.poll_scope import scope_problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "github.owner"),
        ("github: {owner: acme}", None),
        ("github: {assignee: bot}", None),
        ("github: {query: 'state:open org:acme'}", None),
        ("github: {query: 'state:open'}", "github.owner"),
        ("github: {api_url: 'https://ghe.example.com/api/v3'}", None),
        ("task_source: gitlab", "gitlab.project_id"),
        ("{task_source: gitlab, gitlab: {project_id: 7}}", None),
        ("{task_source: gitlab, gitlab: {group_id: acme}}", None),
        ("{task_source: gitlab, gitlab: {api_url: 'https://gitlab.example.com'}}", None),
    ],
)
def test_scope(tmp_path: Path, text: str, expected: str | None) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    problem = scope_problem(load_settings(file, {}))
    assert problem is None if expected is None else expected in (problem or "")
