"""The values of the NetworkPolicy for a forge or a model, and what a later run of `init` makes of them."""

from typing import Any

import pytest
from kubectl_agenttask.chart_values import merged
from kubectl_agenttask.destinations import Destination, ServicePods, network_values

ANYWHERE = ["0.0.0.0/0", "::/0"]
PODS = ServicePods("models", {"app": "vllm"}, (8000,))
PEER = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}},
    "podSelector": {"matchLabels": {"app": "vllm"}},
}
OF_SERVICE = {"to": [PEER], "ports": [8000]}
OF_ADDRESS = {"cidrs": [*ANYWHERE, "10.96.7.7/32"], "ports": [8080]}
PUBLIC = Destination("https://api.openai.com/v1", "8.8.8.8")
PRIVATE = Destination("http://vllm.example:8080/v1", "10.96.7.7")
SERVICE = Destination("http://vllm.models.svc:8080/v1", "10.96.7.7", PODS)
NOT_KNOWN = Destination("http://vllm.models.svc:8080/v1", "10.96.7.7", unknown=True)
NO_ADDRESS = Destination("https://vllm.inside/v1")
BY_HAND: dict[str, Any] = {"cidrs": ["10.0.0.0/8"], "ports": [8000]}


@pytest.mark.parametrize(
    ("destination", "section"),
    [(PUBLIC, {}), (PRIVATE, OF_ADDRESS), (SERVICE, OF_SERVICE), (NOT_KNOWN, {}), (NO_ADDRESS, {})],
)
def test_a_service_is_named_by_its_pods_and_anything_else_by_its_address(
    destination: Destination, section: dict[str, Any]
) -> None:
    assert network_values(None, destination) == section


@pytest.mark.parametrize(
    ("earlier", "destination", "section"),
    [
        (OF_ADDRESS, PUBLIC, {}),
        (OF_ADDRESS, SERVICE, OF_SERVICE),
        (OF_SERVICE, PUBLIC, {}),
        (OF_SERVICE, PRIVATE, OF_ADDRESS),
        (OF_SERVICE, NOT_KNOWN, OF_SERVICE),
        (OF_ADDRESS, NO_ADDRESS, {"cidrs": OF_ADDRESS["cidrs"]}),
        (BY_HAND, PUBLIC, BY_HAND),
        (BY_HAND, SERVICE, BY_HAND | OF_SERVICE),
        ({"to": [{"podSelector": {}}], "ports": [1]}, PUBLIC, {"to": [{"podSelector": {}}], "ports": [1]}),
        ({"cidrs": [*ANYWHERE, "10.0.0.0/8"]}, PUBLIC, {"cidrs": [*ANYWHERE, "10.0.0.0/8"]}),
        ({"to": ["x"], "ports": 3}, PUBLIC, {"to": ["x"], "ports": 3}),
    ],
)
def test_a_later_run_replaces_what_init_wrote_and_nothing_else(
    earlier: dict[str, Any], destination: Destination, section: dict[str, Any]
) -> None:
    assert merged(earlier, network_values(earlier, destination)) == section


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://vllm.models.svc:8080", ("vllm", "models")),
        ("http://vllm.models.svc.cluster.local", ("vllm", "models")),
        ("https://svc.example.com", None),
        ("https://api.openai.com", None),
        ("http://10.96.7.7", None),
    ],
)
def test_the_dns_name_of_a_service_is_recognized(url: str, service: tuple[str, str] | None) -> None:
    assert Destination(url).service == service
