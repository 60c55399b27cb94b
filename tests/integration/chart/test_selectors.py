"""Every selector of the chart finds the pods that its object is for, and every port that it names exists."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import VALUES_FILES, render

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]

COMPONENT = "app.kubernetes.io/component"
EVERYTHING = next(file for file in VALUES_FILES if file.stem == "everything-values")
_OF_TASKS = {"app.kubernetes.io/managed-by": "coding-agent-operator"}
TASK_PODS = [{"labels": {**_OF_TASKS, COMPONENT: name}, "ports": set()} for name in ("attempt", "evidence")]
"""The operator makes these pods, with labels of its own: see tests/unit/operator."""


def of_the_release(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The labels, and the names of the ports, of each kind of pod that the chart makes."""
    found = []
    for entry in objects:
        spec = entry.get("spec", {})
        pod = spec.get("jobTemplate", {"spec": spec})["spec"].get("template")
        if entry["kind"] == "Pod":
            pod = entry
        if pod is None or entry["kind"] not in {"Pod", "Deployment", "CronJob", "Job"}:
            continue
        ports = {
            port["name"]
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
            if "name" in port
        }
        found.append({"labels": pod["metadata"]["labels"], "ports": ports})
    return found


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a Kubernetes label selector finds the labels."""
    wanted: dict[str, str] = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def chosen(selector: Mapping[str, Any], pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pod for pod in pods if matches(selector, pod["labels"])]


def problems(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each selector that does not find exactly the pods of its object's component."""
    pods = of_the_release(objects)
    for entry in objects:
        kind, spec = entry["kind"], entry.get("spec", {})
        where = f"{kind} {entry['metadata']['name']}"
        component = entry["metadata"].get("labels", {}).get(COMPONENT)
        if kind == "Service":
            found = chosen({"matchLabels": spec["selector"]}, pods)
            yield from _not_its_own(where, component, found)
            for port in spec["ports"]:
                target = port.get("targetPort", port["port"])
                if found and target not in found[0]["ports"]:
                    yield f"{where}: no container has the port {target}"
        elif kind == "PodDisruptionBudget":
            yield from _not_its_own(where, component, chosen(spec["selector"], pods))
        elif kind == "Deployment":
            labels = spec["template"]["metadata"]["labels"]
            if not matches(spec["selector"], labels):
                yield f"{where}: its selector does not match its own pods"
            for constraint in spec["template"]["spec"].get("topologySpreadConstraints", []):
                if not matches(constraint["labelSelector"], labels):
                    yield f"{where}: it spreads pods that are not its own"
        elif kind == "NetworkPolicy":
            yield from _policy(where, component, spec, [*pods, *TASK_PODS])
        else:
            yield from _names(where, kind, spec, objects)


def _names(where: str, kind: str, spec: Mapping[str, Any], objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with objects that name others, or select what is scraped."""
    services = {entry["metadata"]["name"]: entry for entry in objects if entry["kind"] == "Service"}
    if kind == "HorizontalPodAutoscaler":
        target = spec["scaleTargetRef"]
        if (target["kind"], target["name"]) not in {(o["kind"], o["metadata"]["name"]) for o in objects}:
            yield f"{where}: there is no {target['kind']} {target['name']}"
    elif kind == "Ingress":
        backends = [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]
        yield from _backends(
            where, [(entry["name"], *entry["port"].values()) for entry in backends], services
        )
    elif kind == "HTTPRoute":
        references = [entry for rule in spec["rules"] for entry in rule.get("backendRefs", [])]
        yield from _backends(where, [(entry["name"], entry["port"]) for entry in references], services)
    elif kind in {"ServiceMonitor", "PodMonitor"}:
        programs = {pod["labels"][COMPONENT]: pod["ports"] for pod in of_the_release(objects)}
        scraped = programs.keys() & {"receiver", "operator", "reporter", "tokens"}
        if kind == "ServiceMonitor":
            ports = {
                entry["metadata"]["labels"][COMPONENT]: {port["name"] for port in entry["spec"]["ports"]}
                for entry in services.values()
                if matches(spec["selector"], entry["metadata"]["labels"])
            }
        else:
            ports = {
                pod["labels"][COMPONENT]: pod["ports"]
                for pod in chosen(spec["selector"], of_the_release(objects))
            }
        if ports.keys() != scraped:
            yield f"{where}: it scrapes {sorted(ports)}, not {sorted(scraped)}"
        endpoints = {entry["port"] for entry in spec.get("endpoints", spec.get("podMetricsEndpoints"))}
        yield from (f"{where}: {name} has none of its ports" for name in ports if not ports[name] & endpoints)


def _backends(where: str, named: list[Any], services: Mapping[str, Any]) -> Iterator[str]:
    """Yield each backend that is not a port of the receiver, the only program for the world outside."""
    for name, port in named:
        service = services.get(name)
        if service is None or service["metadata"]["labels"][COMPONENT] != "receiver":
            yield f"{where}: {name} is not the receiver's Service"
        elif port not in [
            value for entry in service["spec"]["ports"] for value in (entry["name"], entry["port"])
        ]:
            yield f"{where}: the Service {name} has no port {port}"


def _not_its_own(where: str, component: str | None, found: list[dict[str, Any]]) -> Iterator[str]:
    names = {pod["labels"][COMPONENT] for pod in found}  # the poller has a CronJob for each forge
    if names != {component}:
        yield f"{where}: it selects pods of {sorted(names)}, not of {component}"


def _policy(where: str, component: str | None, spec: Mapping[str, Any], pods: list[Any]) -> Iterator[str]:
    found = chosen(spec["podSelector"], pods)
    if component == "release":
        found_names = {pod["labels"][COMPONENT] for pod in found}
        every = {pod["labels"][COMPONENT] for pod in pods} - {"attempt", "evidence"}
        if found_names != every:
            yield f"{where}: it selects pods of {sorted(found_names)}, not of {sorted(every)}"
        return
    yield from _not_its_own(where, component, found)
    own = {port for pod in found for port in pod["ports"]}
    for rule in spec.get("ingress", []):
        yield from (
            f"{where}: no container has the port {port['port']}"
            for port in rule.get("ports", [])
            if isinstance(port["port"], str) and port["port"] not in own
        )
    for direction, key in (("ingress", "from"), ("egress", "to")):
        for peer in (peer for rule in spec.get(direction, []) for peer in rule.get(key, [])):
            selector = peer.get("podSelector")
            # Values can name pods of other applications, which the chart does not know.
            ours = selector is not None and any(
                "coding-agent" in value for value in selector.get("matchLabels", {}).values()
            )
            if ours and "namespaceSelector" not in peer and not chosen(selector, pods):
                missing = selector["matchLabels"].get(COMPONENT)
                if missing not in OPTIONAL:
                    yield f"{where}: {direction}: no pod has {selector['matchLabels']}"


OPTIONAL = {"reporter", "poller", "selftest"}
"""A policy may allow these although they are switched off, and the pod of `helm test` comes later."""


@pytest.mark.parametrize("file", VALUES_FILES, ids=lambda file: file.stem)
def test_every_selector_finds_the_pods_of_its_object(file: Path) -> None:
    assert list(problems(render(file))) == []


def test_the_chart_with_everything_has_all_that_is_checked() -> None:
    kinds = [entry["kind"] for entry in render(EVERYTHING)]
    assert kinds.count("Service") >= 4
    assert kinds.count("NetworkPolicy") >= 8
    assert {"PodDisruptionBudget", "Ingress", "HTTPRoute", "ServiceMonitor"} <= set(kinds)


def test_the_check_sees_each_kind_of_wrong_selector() -> None:
    def broken(kind: str, *path: str) -> list[str]:
        objects = copy.deepcopy(render(EVERYTHING))
        entry = next(entry for entry in objects if entry["kind"] == kind and COMPONENT in str(entry["spec"]))
        target = entry["spec"]
        for key in path:
            target = target[key]
        target[COMPONENT] = "another"
        return [sentence for sentence in problems(objects) if entry["metadata"]["name"] in sentence]

    assert broken("Service", "selector")
    assert broken("PodDisruptionBudget", "selector", "matchLabels")
    assert broken("Deployment", "selector", "matchLabels")
    assert broken("Deployment", "template", "metadata", "labels")
