"""What is shown of a task: golden rows, and texts of strangers."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from kubectl_agenttask import tables
from kubectl_agenttask.tables import console, show_facts, show_table

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)


def task(name: str, created: str, number: int = 7, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team", "creationTimestamp": created},
        "spec": {
            "source": {"repository": "octo/demo", "number": number},
            "title": "It is broken",
            "url": "https://github.com/octo/demo/issues/7",
            "user": "alice",
            "run": 1,
            "priority": 5,
            "trigger": {"origin": "webhook", "labeledAt": "2026-11-25T12:00:00Z"},
        },
        "status": status,
    }


DONE = task(
    "demo-issue-7-1a2b3c4d5e6f7a8b",
    "2026-11-25T12:00:00Z",
    duration="30m",
    phase="Succeeded",
    reason="Completed",
    attempt="2/3",
    conditions=[
        {
            "type": "Succeeded",
            "status": "True",
            "reason": "Completed",
            "message": "The pull request is open.",
            "lastTransitionTime": "2026-11-25T12:30:00Z",
        }
    ],
    attempts=[
        {
            "number": 1,
            "startTime": "2026-11-25T12:00:00Z",
            "completionTime": "2026-11-25T12:04:30Z",
            "outcome": "Failed",
            "reason": "OOMKilled",
            "message": "The agent ran out of memory.",
            "usage": {"requests": 1, "cost": {"amount": "0.01", "currency": "USD"}},
            "transcript": "s3://agent-logs/7/attempt-1.jsonl",
            "transcriptURL": "https://logs.example/7",
            "tail": "- called run_command\n  gave: Killed",
        },
        {"number": 2, "startTime": "2026-11-25T12:05:00Z"},
    ],
    result={
        "branch": "coding-agent/7",
        "changeURL": "https://github.com/octo/demo/pull/8",
        "usage": {
            "requests": 3,
            "inputTokens": 1000,
            "outputTokens": 20,
            "cost": {"amount": "0.02", "currency": "USD"},
        },
    },
)


def text(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    out = io.StringIO()
    show_table(console(out), columns, rows)
    return out.getvalue()


def test_list_is_a_line_for_each_task_oldest_first() -> None:
    merge_request = task("gitlab-9-mr-3-5e6f7a8b9c0d1e2f", "2026-11-25T13:59:48Z", 3)
    merge_request["spec"]["source"] |= {"platform": "gitlab", "kind": "change"}
    merge_request["spec"]["source"]["repository"] = "group/sub/project"
    rows = tables.task_rows([merge_request, DONE], NOW)
    golden = """
NAME                             REPOSITORY          ITEM   PHASE       ATTEMPT   CHANGE                                REASON      DURATION   AGE
demo-issue-7-1a2b3c4d5e6f7a8b    octo/demo           #7     Succeeded   2/3       https://github.com/octo/demo/pull/8   Completed   30m        120m
gitlab-9-mr-3-5e6f7a8b9c0d1e2f   group/sub/project   !3     New                                                                                12s
"""  # noqa: E501
    assert text(tables.COLUMNS, rows).strip() == golden.strip()


def test_no_line_of_a_pipe_ends_in_spaces() -> None:
    out = io.StringIO()
    long = "x" * 250
    show_table(console(out), ("NUMBER", "MESSAGE"), [("1", long), ("2", "short")])
    show_facts(console(out), [("Name", "demo"), ("Summary", long)])
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert [line for line in lines if "short" in line or "demo" in line] == [
        "2        short",
        "Name:      demo",
    ]


def test_hosts_that_the_egress_proxy_denied_are_shown() -> None:
    denied = task(
        "demo",
        "2026-11-25T12:00:00Z",
        attempts=[{"number": 1, "denied": [{"host": "a.example.com", "count": 3}]}, {"number": 2}],
    )
    assert tables.denied_rows(denied) == [("1", "a.example.com", "3")]


def test_describe_shows_what_the_repository_asked_for() -> None:
    service = {"name": "database", "image": "registry.example.com/db:1", "port": 5432}
    asked = {"image": "registry.example.com/tools:1", "egress": ["node"], "services": [service]}
    shown = dict(tables.facts(task("a", "2026-11-25T12:00:00Z", environment=asked), NOW))
    assert shown["Environment"] == "image registry.example.com/tools:1; service database; preset node"
    verify = {"description": "1 of 2 commands fails: make test (exit code 2)"}
    judged = task("a", "2026-11-25T12:00:00Z", verify=verify)
    assert dict(tables.facts(judged, NOW))["Verification"] == verify["description"]
    other = task("a", "2026-11-25T12:00:00Z", environment={"image": 7})
    assert dict(tables.facts(other, NOW))["Environment"] == "not readable"


def test_describe_names_the_account_that_created_the_task() -> None:
    made = task("a", "2026-11-25T12:00:00Z")
    assert "Created by" not in dict(tables.facts(made, NOW))
    made["metadata"]["annotations"] = {"coding-agent.dev/created-by": "alice@example.com"}
    assert dict(tables.facts(made, NOW))["Created by"] == "alice@example.com"


def test_describe_tells_everything() -> None:
    out = io.StringIO()
    show_facts(console(out), tables.facts(DONE, NOW))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "Name:        demo-issue-7-1a2b3c4d5e6f7a8b",
        "Namespace:   team",
        "Item:        octo/demo#7",
        "Title:       It is broken",
        "URL:         https://github.com/octo/demo/issues/7",
        "Phase:       Succeeded (Completed)",
        "Run:         1",
        "Attempt:     2/3",
        "User:        alice",
        "Origin:      webhook, labeled at 2026-11-25T12:00:00Z",
        "Created:     2026-11-25T12:00:00Z (120m ago)",
        "Priority:    5",
        "Branch:      coding-agent/7",
        "Change:      https://github.com/octo/demo/pull/8",
        "Usage:       3 requests, 1000 tokens in, 20 out, 0.02 USD",
    ]
    assert tables.condition_rows(DONE, NOW) == [
        ("Succeeded", "True", "Completed", "90m", "The pull request is open.")
    ]
    assert tables.attempt_rows(DONE) == [
        (
            "1",
            "Failed",
            "OOMKilled",
            "2026-11-25T12:00:00Z",
            "4m30s",
            "0.01 USD",
            "The agent ran out of memory.",
        ),
        ("2", "running", "", "2026-11-25T12:05:00Z", "", "", ""),
    ]
    assert tables.transcript_rows(DONE) == [
        ("1", "s3://agent-logs/7/attempt-1.jsonl", "https://logs.example/7")
    ]
    assert tables.last_steps(DONE) == ("1", ["- called run_command", "  gave: Killed"])


def test_a_title_moves_no_cursor_and_is_no_markup() -> None:
    evil = task("t", "2026-11-25T12:00:00Z")
    evil["spec"]["title"] = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\nsecond\u202eline"
    shown = dict(tables.facts(evil, NOW))["Title"]
    assert shown == " [2J ]0;owned [red]x[/red] second line"
    out = io.StringIO()
    show_facts(console(out), [("Title", shown)])
    assert shown in out.getvalue()


def test_a_task_that_no_operator_looks_at_says_where_to_look() -> None:
    old = {**task("t", "2020-01-01T00:00:00Z"), "status": None}
    assert "kubectl get deployments,leases -n team" in tables.no_operator_hint(old, NOW)
    young = {**task("t", NOW.isoformat()), "status": None}
    assert tables.no_operator_hint(young, NOW) == ""
    assert tables.no_operator_hint(task("t", "2020-01-01T00:00:00Z", phase="Queued"), NOW) == ""


@pytest.mark.parametrize("status", [None, {}, {"conditions": "none", "attempts": [7], "result": []}])
def test_a_task_without_a_readable_status_is_shown_all_the_same(status: Any) -> None:
    bare = {**task("t", "2026-11-25T12:00:00Z"), "status": status}
    assert tables.task_rows([bare], NOW)[0][3] == "New"
    assert tables.condition_rows(bare, NOW) == tables.attempt_rows(bare) == tables.transcript_rows(bare) == []
    assert tables.last_steps(bare) is None
    assert dict(tables.facts(bare, NOW))["Phase"] == "New"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (600, "10m"),
        (7200, "120m"),
        (3 * 3600, "3h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
    ],
)
def test_spans_are_those_of_kubectl(seconds: float, shown: str) -> None:
    assert tables.span(seconds) == shown


def test_what_was_spent_by_repository_user_and_model() -> None:
    def used(model: str, amount: str, currency: str = "USD") -> dict[str, Any]:
        cost = {"amount": amount, "currency": currency}
        return {"requests": 2, "inputTokens": 10, "outputTokens": 5, "model": model, "cost": cost}

    def ended(at: str, usage: dict[str, Any] | None) -> dict[str, Any]:
        return {"number": 1, "completionTime": at, "usage": usage}

    today, before = "2026-11-25T01:00:00Z", "2026-11-24T23:00:00Z"
    tasks = [
        task("a", today, attempts=[ended(today, used("small", "0.10")), ended(before, used("small", "9"))]),
        task(
            "b",
            today,
            attempts=[ended(today, used("large", "0.30")), ended(today, used("large", "1", "EUR"))],
        ),
        task("c", today, attempts=[ended(today, None), {"number": 2}, ended(today, {"requests": 1})]),
    ]
    since = datetime(2026, 11, 25, tzinfo=UTC)
    assert tables.spent_rows(tasks, "model", since) == [
        ("large", "2", "4", "20", "10", "1 EUR + 0.30 USD"),
        ("small", "1", "2", "10", "5", "0.10 USD"),
        ("unknown", "1", "1", "0", "0", ""),
    ]
    both = used("ignored", "0.40") | {"model": None, "models": [used("large", "0.30"), used("small", "0.10")]}
    mixed = task("d", today, attempts=[ended(today, both)], result={"usage": both})
    assert tables.spent_rows([mixed], "model", since) == [
        ("large", "1", "2", "10", "5", "0.30 USD"),
        ("small", "1", "2", "10", "5", "0.10 USD"),
    ]
    assert [row[-1] for row in tables.spent_rows([mixed], "user", since)] == ["0.40 USD"]
    assert tables.model_rows(mixed)[1] == ("small", "2", "10", "5", "0.10 USD")
    assert tables.model_rows(tasks[0]) == []
    assert [row[:2] for row in tables.spent_rows(tasks, "repository", since)] == [("octo/demo", "4")]
    assert [row[:2] for row in tables.spent_rows(tasks, "user", since)] == [("alice", "4")]
    assert tables.spent_rows(tasks, "user", datetime(2026, 11, 26, tzinfo=UTC)) == []


def test_a_waiting_run_shows_the_change_of_the_runs_before_it_and_no_other() -> None:
    def run(name: str, number: int, item: str, change: str = "") -> dict[str, Any]:
        made = task(name, "2026-11-25T12:00:00Z", result={"changeURL": change} if change else {})
        made["metadata"]["labels"] = {"coding-agent.dev/item": item}
        made["spec"]["run"] = number
        return made

    rows = tables.task_rows(
        [
            run("a", 1, "item", "https://example.com/1"),
            run("b", 2, "item"),
            run("c", 3, "item", "https://example.com/3"),
            run("d", 1, "other"),
        ],
        NOW,
    )
    shown = {row[0]: row[5] for row in rows}
    first = "https://example.com/1"
    assert shown == {"a": first, "b": first, "c": "https://example.com/3", "d": ""}
