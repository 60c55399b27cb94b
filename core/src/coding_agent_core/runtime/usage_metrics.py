"""The metrics of the model usage of attempts."""

from __future__ import annotations

from coding_agent_core.runtime.metrics import CollectorRegistry, Counter
from coding_agent_core.task.usage import OTHER_MODELS, Usage

_MAX_MODELS = 50
"""Maximum number of models that have their own series."""


class UsageMetrics:
    """The counters of attempts' usage by repository and model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "coding_agent_model_requests",
            "Requests to the model by attempts that ended",
            ["repository", "model"],
            registry=registry,
        )
        self._tokens = Counter(
            "coding_agent_model_tokens",
            "Tokens of attempts that ended, by direction (input, output)",
            ["repository", "model", "direction"],
            registry=registry,
        )
        self._cost = Counter(
            "coding_agent_model_cost",
            "Cost of attempts that ended, by currency, if the price of the model is known",
            ["repository", "model", "currency"],
            registry=registry,
        )
        self._models: set[str] = set()

    def count(self, repository: str, usage: Usage | None) -> None:
        """Count the usage of one attempt. Call this once for each attempt."""
        for used in usage.by_model if usage is not None else ():
            labels = (repository.lower(), self._label(used.model))
            self._requests.labels(*labels).inc(used.requests)
            self._tokens.labels(*labels, "input").inc(used.input_tokens)
            self._tokens.labels(*labels, "output").inc(used.output_tokens)
            if used.cost is not None:
                self._cost.labels(*labels, used.cost.currency).inc(float(used.cost.amount))

    def _label(self, model: str) -> str:
        """Return the label for a model. The number of labels is limited, because an agent chooses models."""
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            return OTHER_MODELS
        self._models.add(model)
        return model
