"""The part of the settings tree that the operator needs: limits, Jobs, queue, transcripts."""

from __future__ import annotations

import os
from collections.abc import Mapping

from coding_agent_core.settings import Settings, load_settings
from coding_agent_core.settings.attempts import Consumer, ContextStorage
from coding_agent_core.settings.job import JobTemplate
from coding_agent_core.settings.operator import Limits, Operator, Policy
from coding_agent_core.settings.queues import Engine, Queue
from coding_agent_core.settings.section import Section

__all__ = ["JobTemplate", "Limits", "Operator", "OperatorSettings", "Policy", "load"]


class OperatorSettings(Section):
    """What the operator needs of the settings tree."""

    limits: Limits = Limits()
    operator: Operator = Operator()
    queue: Queue = Queue()
    context_storage: ContextStorage = ContextStorage()
    consumer: Consumer = Consumer()
    """Limits of tasks that name none."""

    @property
    def kueue(self) -> bool:
        """Kueue decides who may start."""
        return self.queue.engine is Engine.KUEUE

    @property
    def namespace(self) -> str:
        """The namespace in force."""
        return self.operator.namespace or os.environ.get("POD_NAMESPACE") or "default"

    @staticmethod
    def of(settings: Settings) -> OperatorSettings:
        """The operator's part of the whole tree."""
        return OperatorSettings(
            limits=settings.limits,
            operator=settings.operator,
            queue=settings.queue,
            context_storage=settings.context_storage,
            consumer=settings.consumer,
        )


def load(environment: Mapping[str, str]) -> OperatorSettings:
    """The operator's part of the settings in force (`CONFIG_FILE`, else `config.yaml`, and the environment).

    Raises:
        SettingsError: a setting is wrong or unknown.
    """
    return OperatorSettings.of(load_settings(None, environment))
