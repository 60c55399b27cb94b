"""What attempts used is counted by repository and model, and served."""

import socket
import subprocess
import sys
from decimal import Decimal

import httpx2
import pytest
from coding_agent_core.runtime.http_server import metrics_served
from coding_agent_core.runtime.metrics import metrics_page
from coding_agent_core.runtime.usage_metrics import UsageMetrics
from coding_agent_core.task.usage import Cost, Usage
from prometheus_client import CollectorRegistry

USED = Usage(
    requests=3, input_tokens=500, output_tokens=40, cost=Cost.of(Decimal("0.25"), "USD"), model="gpt-4o"
)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(
        f"coding_agent_model_{name}_total", {"repository": "acme/pricing", "model": "gpt-4o", **labels}
    )


def test_tokens_and_cost_add_up_by_repository_and_model() -> None:
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry)
    metrics.count("acme/pricing", USED)
    metrics.count("Acme/Pricing", USED)
    metrics.count("acme/pricing", USED.model_copy(update={"model": "qwen3", "cost": None}))
    assert value(registry, "requests") == 6
    assert value(registry, "tokens", direction="input") == 1000
    assert value(registry, "tokens", direction="output") == 80
    assert value(registry, "cost", currency="USD") == 0.5
    assert value(registry, "requests", model="qwen3") == 3
    assert value(registry, "cost", model="qwen3", currency="USD") is None


def test_an_attempt_with_several_models_counts_for_each() -> None:
    registry = CollectorRegistry()
    UsageMetrics(registry).count("acme/pricing", USED.plus(USED.model_copy(update={"model": "qwen3"})))
    assert value(registry, "requests") == 3
    assert value(registry, "cost", model="qwen3", currency="USD") == 0.25
    assert value(registry, "requests", model="unknown") is None


def test_names_of_models_do_not_make_series_without_end() -> None:
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry)
    for number in range(70):
        metrics.count("acme/pricing", USED.model_copy(update={"model": f"m{number}"}))
    metrics.count("acme/pricing", USED.model_copy(update={"model": "m0"}))
    assert value(registry, "requests", model="m0") == 6
    assert value(registry, "requests", model="m69") is None
    assert value(registry, "requests", model="other") == 60


async def test_metrics_are_served_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    UsageMetrics(registry).count("acme/pricing", USED)
    caplog.set_level("INFO")
    async with metrics_served("127.0.0.1", 0, metrics_page(registry)):
        port = int(caplog.messages[-1].rsplit(" ", 1)[1])
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert (
        'coding_agent_model_cost_total{currency="USD",model="gpt-4o",repository="acme/pricing"} 0.25' in text
    )


async def test_a_port_that_is_taken_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with metrics_served("127.0.0.1", taken.getsockname()[1], metrics_page(CollectorRegistry())):
            pass
        assert "Metrics are not served" in caplog.text


@pytest.mark.parametrize(
    "program", ["coding_agent_receiver.server", "coding_agent_operator.reporter.reporter_program"]
)
def test_no_program_has_created_series(program: str) -> None:
    code = f"import {program}, prometheus_client.metrics; print(prometheus_client.metrics._use_created)"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=120
    ).stdout
    assert output == b"False\n"
