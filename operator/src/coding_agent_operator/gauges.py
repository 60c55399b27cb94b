"""Gauges of an engine, of which one process may have several: one for each namespace that it serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LABEL = "served_namespace"
"""Not `namespace`: that is the scraped pod's own, and Prometheus would rename ours."""
_SERVED: ContextVar[str] = ContextVar(LABEL, default="")


@contextmanager
def serving(namespace: str) -> Iterator[None]:
    """What is set inside, and in tasks that begin inside, is of this namespace."""
    token = _SERVED.set(namespace)
    try:
        yield
    finally:
        _SERVED.reset(token)


class ServedGauge(Collector):
    """A gauge with a value for each served namespace, told apart by `LABEL`.

    An operator of one namespace sets none, and its series have no such label.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}
        registry.register(self)

    def set(self, value: float, *labels: str) -> None:
        """Set the value of the namespace of this context; one label for each of `labelnames`."""
        self._values[_SERVED.get(), labels] = value

    def forget(self) -> None:
        """The namespace of this context has no value any more."""
        served = _SERVED.get()
        self._values = {key: value for key, value in self._values.items() if key[0] != served}

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        family = GaugeMetricFamily(self._name, self._documentation)
        for (served, labels), value in sorted(self._values.items()):
            named = dict(zip(self._labelnames, labels, strict=True))
            family.add_sample(self._name, {**named, **({LABEL: served} if served else {})}, value)
        yield family
