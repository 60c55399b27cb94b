"""Gauges of engines that share a process."""

from __future__ import annotations

from coding_agent_operator.gauges import ServedGauge, serving
from prometheus_client import CollectorRegistry, generate_latest


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_an_operator_of_one_namespace_shows_what_it_always_did() -> None:
    registry = CollectorRegistry()
    plain = ServedGauge("leader", "Who acts.", registry=registry)
    phases = ServedGauge("tasks", "By phase.", ["phase"], registry=registry)
    plain.set(1)
    phases.set(2, "Running")
    phases.set(3, "Running")
    assert lines(registry) == ["leader 1.0", 'tasks{phase="Running"} 3.0']


def test_each_served_namespace_has_its_own_and_loses_it() -> None:
    registry = CollectorRegistry()
    tasks = ServedGauge("tasks", "By phase.", ["phase"], registry=registry)
    for namespace, count in (("team-a", 1), ("team-b", 2)):
        with serving(namespace):
            tasks.set(count, "Queued")
    assert lines(registry) == [
        'tasks{phase="Queued",served_namespace="team-a"} 1.0',
        'tasks{phase="Queued",served_namespace="team-b"} 2.0',
    ]
    with serving("team-a"):
        tasks.forget()
    assert lines(registry) == ['tasks{phase="Queued",served_namespace="team-b"} 2.0']
