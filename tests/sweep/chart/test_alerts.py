"""The alerts fire when they should and are quiet when all is well, as Prometheus' promtool sees them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, one, render
from tests.integration.chart.conftest import Tool

# Time for promtool, which may have to be built first.
pytestmark = pytest.mark.timeout(1200)

AGENT, CRON = 'namespace="agents"', 'namespace="agents", cronjob="coding-agent-poller-github"'
SERVED = 'served_namespace="agents"'
BUDGET = 'budget="repository", repository="acme/shop", unit="USD", served_namespace="agents"'
BACKGROUND = f'coding_agent_background_errors_total{{{AGENT}, component="operator", work="sweep"}}'
POLLER = {"cronjob": "coding-agent-poller-github"}
PROGRAMS = ("receiver", "operator", "reporter", "tokens")
HEALTHY = {
    **{f'up{{{AGENT}, component="{name}"}}': "1x180" for name in PROGRAMS},
    f'coding_agent_queue_errors_total{{{AGENT}, platform="github"}}': "0x180",
    f'coding_agent_webhook_signature_failures_total{{{AGENT}, platform="github"}}': "0x180",
    f'coding_agent_webhooks_processed_total{{{AGENT}, platform="github"}}': "0+6x180",
    f'coding_agent_webhook_response_seconds_bucket{{{AGENT}, le="0.1"}}': "0+6x180",
    f'coding_agent_webhook_response_seconds_bucket{{{AGENT}, le="+Inf"}}': "0+6x180",
    f"coding_agent_reconcile_errors_total{{{AGENT}}}": "0x180",
    BACKGROUND: "0x180",
    f"coding_agent_watch_behind{{{AGENT}}}": "0x180",
    f'coding_agent_tasks{{{AGENT}, phase="Queued"}}': "2x180",
    f'coding_agent_tasks_accepted_total{{{AGENT}, origin="webhook"}}': "0+1x180",
    f'coding_agent_tasks_accepted_total{{{AGENT}, origin="poll"}}': "0x180",
    f'coding_agent_tasks{{{AGENT}, phase="Running"}}': "5x180",
    f'coding_agent_tasks_not_starting{{{AGENT}, reason="SecretMissing", {SERVED}}}': "0x180",
    f'coding_agent_queue_wait_seconds_bucket{{{AGENT}, le="1800"}}': "0+1x180",
    f'coding_agent_queue_wait_seconds_bucket{{{AGENT}, le="+Inf"}}': "0+1x180",
    f'coding_agent_tasks_ended_total{{{AGENT}, phase="Succeeded", reason="Completed"}}': "0+1x180",
    f'coding_agent_tasks_ended_total{{{AGENT}, phase="Failed", reason="ModelRefused"}}': "0x180",
    f"coding_agent_budget_limit{{{AGENT}, {BUDGET}}}": "20x180",
    f"coding_agent_budget_spent{{{AGENT}, {BUDGET}}}": "0x180",
    f"kube_cronjob_created{{{CRON}}}": "0x180",
    f"kube_cronjob_spec_suspend{{{CRON}}}": "0x180",
    f"kube_cronjob_status_last_successful_time{{{CRON}}}": "0+60x180",
    f'coding_agent_reporter_oldest_pending_seconds{{{AGENT}, host="github.com"}}': "3x180",
    f'coding_agent_reporter_forge_unavailable_seconds{{{AGENT}, host="github.com"}}': "0x180",
    f'coding_agent_token_requests_total{{{AGENT}, result="Given"}}': "0+1x180",
    f'coding_agent_token_requests_total{{{AGENT}, result="KeyRefused"}}': "0x180",
    f'coding_agent_forge_token_expiry_timestamp_seconds{{{AGENT}, host="gitlab.com"}}': "31536000x180",
}
"""One value a minute, in promtool's notation, of an installation in which all is well."""
ABSENT = ""


@dataclass(frozen=True)
class Case:
    """What is different from HEALTHY (ABSENT: the series is not there), and when the alert must fire.

    Attributes:
        labels: of the alert, beside its severity; `None`: it must not fire.
    """

    alert: str
    series: dict[str, str]
    minute: int
    labels: dict[str, str] | None = field(default_factory=dict)


def down(name: str, minute: int) -> Case:
    """The component cannot be scraped from minute 60 on."""
    series = {f'up{{{AGENT}, component="{name}"}}': "1x59 0x120"}
    return Case(f"CodingAgent{name.capitalize()}Down", series, minute)


CASES = [
    down("receiver", 63),
    down("operator", 66),
    down("reporter", 71),
    down("tokens", 66),
    *(
        Case(
            alert,
            {f'coding_agent_token_requests_total{{{AGENT}, result="{result}"}}': "0x59 1x120"},
            62,
            labels,
        )
        for alert, result, labels in (
            ("CodingAgentAppKeyWrong", "KeyRefused", {"result": "KeyRefused"}),
            ("CodingAgentAppKeyWrong", "CallerUnknown", None),
            ("CodingAgentAppRefused", "Suspended", {"result": "Suspended"}),
            ("CodingAgentAppRefused", "KeyRefused", None),
        )
    ),
    # A single error of a pod that had none before.
    Case(
        "CodingAgentQueueErrors",
        {f'coding_agent_queue_errors_total{{{AGENT}, platform="github"}}': "0x59 1x120"},
        62,
    ),
    Case(
        "CodingAgentSignatureFailures",
        {f'coding_agent_webhook_signature_failures_total{{{AGENT}, platform="github"}}': "0x59 20x120"},
        67,
        {"platform": "github"},
    ),
    *(
        # One delivery with a wrong signature, and after it no webhook passes verification, or one does.
        Case(
            "CodingAgentWebhookSecretWrong",
            {
                f'coding_agent_webhook_signature_failures_total{{{AGENT}, platform="github"}}': "0x59 1x120",
                f'coding_agent_webhooks_processed_total{{{AGENT}, platform="github"}}': processed,
            },
            minute,
            labels,
        )
        for processed, minute, labels in (
            ("0x180", 122, {"platform": "github"}),
            ("0x180", 100, None),
            ("0x89 1x90", 122, None),
        )
    ),
    *(
        Case(
            "CodingAgentCredentialsRefused",
            {f'coding_agent_tasks_ended_total{{{AGENT}, phase="Failed", reason="{reason}"}}': "0x59 1x120"},
            63,
            labels,
        )
        for reason, labels in (
            ("ModelRefused", {"reason": "ModelRefused"}),
            ("SecretMissing", {"reason": "SecretMissing"}),
            ("CannotBeDone", None),
        )
    ),
    Case(
        "CodingAgentWebhooksSlow",
        {
            f'coding_agent_webhook_response_seconds_bucket{{{AGENT}, le="{le}"}}': item
            for le, item in (("0.1", "0x180"), ("5", "0x180"), ("10", "0+6x180"))
        },
        30,
    ),
    Case("CodingAgentReconcileErrors", {f"coding_agent_reconcile_errors_total{{{AGENT}}}": "0+12x180"}, 40),
    # A single error of a pod that had none before.
    Case(
        "CodingAgentBackgroundErrors",
        {BACKGROUND: "0x59 1x120"},
        62,
        {"component": "operator", "work": "sweep"},
    ),
    Case("CodingAgentWatchBehind", {f"coding_agent_watch_behind{{{AGENT}}}": "4x180"}, 6),
    Case(
        "CodingAgentNamespaceFailing",
        {f'coding_agent_operator_namespace_failing{{{AGENT}, served_namespace="team-a"}}': "0x9 1x170"},
        20,
        {"served_namespace": "team-a"},
    ),
    Case(
        "CodingAgentBudgetNearlySpent",
        {f"coding_agent_budget_spent{{{AGENT}, {BUDGET}}}": "17x180"},
        2,
        {"budget": "repository", "repository": "acme/shop", "unit": "USD", "served_namespace": "agents"},
    ),
    Case(
        "CodingAgentBudgetNearlySpent",
        {f"coding_agent_budget_spent{{{AGENT}, {BUDGET}}}": "15x180"},
        60,
        None,
    ),
    *(
        # Five other attempts run, and nothing is stuck.
        Case(
            "CodingAgentAttemptsNotStarting",
            {f'coding_agent_tasks_not_starting{{{AGENT}, reason="{reason}", {SERVED}}}': "0x59 1x120"},
            63,
            labels,
        )
        for reason, labels in (
            ("SecretMissing", {"reason": "SecretMissing", "served_namespace": "agents"}),
            ("ErrImagePull", {"reason": "ErrImagePull", "served_namespace": "agents"}),
            ("Unschedulable", None),
        )
    ),
    Case("CodingAgentTasksStuck", {f'coding_agent_tasks{{{AGENT}, phase="Running"}}': "0x180"}, 16),
    Case(
        "CodingAgentQueueLong",
        {
            f'coding_agent_queue_wait_seconds_bucket{{{AGENT}, le="{le}"}}': candidate
            for le, candidate in (("1800", "0x180"), ("3600", "0x180"), ("7200", "0+1x180"))
        },
        60,
    ),
    Case(
        "CodingAgentTasksFailing",
        {
            f'coding_agent_tasks_ended_total{{{AGENT}, phase="Succeeded", reason="Completed"}}': "0x180",
            f'coding_agent_tasks_ended_total{{{AGENT}, phase="Failed", reason="ModelRefused"}}': "0x89 3x90",
        },
        100,
    ),
    Case(
        "CodingAgentPollFailing",
        {f"kube_cronjob_status_last_successful_time{{{CRON}}}": "0+60x60 3600x120"},
        130,
        POLLER,
    ),
    # It never succeeded, since it was made.
    Case(
        "CodingAgentPollFailing", {f"kube_cronjob_status_last_successful_time{{{CRON}}}": ABSENT}, 70, POLLER
    ),
    Case(
        "CodingAgentPollFailing",
        {
            f"kube_cronjob_status_last_successful_time{{{CRON}}}": ABSENT,
            f"kube_cronjob_spec_suspend{{{CRON}}}": "1x180",
        },
        150,
        None,
    ),
    Case(
        "CodingAgentWebhooksMissed",
        {f'coding_agent_tasks_accepted_total{{{AGENT}, origin="poll"}}': "0x59 4x120"},
        65,
    ),
    # One event was missed.
    Case(
        "CodingAgentWebhooksMissed",
        {f'coding_agent_tasks_accepted_total{{{AGENT}, origin="poll"}}': "0x59 1x120"},
        65,
        None,
    ),
    Case(
        "CodingAgentReporterBehind",
        {f'coding_agent_reporter_oldest_pending_seconds{{{AGENT}, host="github.com"}}': "0+60x180"},
        25,
        {"host": "github.com"},
    ),
    Case(
        "CodingAgentForgeTokenExpires",
        # promtool's time begins at 0: the token expires 14 days and an hour after that.
        {f'coding_agent_forge_token_expiry_timestamp_seconds{{{AGENT}, host="gitlab.com"}}': "1213200x180"},
        63,
        {"host": "gitlab.com"},
    ),
    Case(
        "CodingAgentForgeTokenExpires",
        {f'coding_agent_forge_token_expiry_timestamp_seconds{{{AGENT}, host="gitlab.com"}}': "1213200x180"},
        58,
        None,
    ),
    Case(
        "CodingAgentForgeUnavailable",
        {f'coding_agent_reporter_forge_unavailable_seconds{{{AGENT}, host="github.com"}}': "0+60x180"},
        13,
        {"host": "github.com"},
    ),
]


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    values = {
        "polling": {"enabled": True},
        "config": {"github": {"owner": "acme"}},
        "metrics": {"prometheusRule": {"enabled": True}},
    }
    # With a GitHub App, all parts are there that have alerts.
    found = render(CHART / "ci" / "app-values.yaml", values=values)
    group = one(found, "PrometheusRule", "coding-agent")["spec"]["groups"][0]
    return list(group["rules"])


def written(folder: Path, rules: list[dict[str, Any]]) -> Path:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "rules", "rules": rules}]}))
    return file


def group(rules: list[dict[str, Any]], case: Case) -> dict[str, Any]:
    severity = next(rule["labels"]["severity"] for rule in rules if rule["alert"] == case.alert)
    fires = case.labels is not None
    expected = [{"exp_labels": {"severity": severity, **(case.labels or {})}}] if fires else []
    series = {name: values for name, values in {**HEALTHY, **case.series}.items() if values != ABSENT}
    when = {"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": expected}
    return {
        "name": f"{case.alert}, {case.series}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [when],
    }


def test_every_expression_is_promql(tool: Tool, tmp_path: Path, rules: list[dict[str, Any]]) -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    drawn = [{"record": f"panel:{number}", "expr": entry} for number, entry in enumerate(panels)]
    file = written(tmp_path, [*rules, *drawn])
    assert f"{len(rules) + len(drawn)} rules found" in tool("promtool", "check", "rules", str(file))


def test_alerts_fire_when_they_should_and_never_where_all_is_well(
    tool: Tool, tmp_path: Path, rules: list[dict[str, Any]]
) -> None:
    assert {rule["alert"] for rule in rules} == {case.alert for case in CASES if case.labels is not None}
    well = [Case(rule["alert"], {}, minute, None) for rule in rules for minute in (90, 170)]
    # Their texts are the runbooks' matter; promtool would compare them too.
    written(tmp_path, [{key: rule[key] for key in rule.keys() - {"annotations"}} for rule in rules])
    groups = [group(rules, case) for case in [*CASES, *well]]
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": groups}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    tool("promtool", "test", "rules", str(tmp_path / "test.yaml"))
