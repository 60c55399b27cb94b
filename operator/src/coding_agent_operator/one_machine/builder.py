"""Builds what runs an attempt on one machine: the Job's manifest with the variables of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import ANNOTATION_ALLOWANCE, LABEL_ATTEMPT, AgentTask
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE
from coding_agent_core.task.environment import Environment

from coding_agent_operator.cluster.observed import AGENT_CONTAINER, ATTEMPT, job_name
from coding_agent_operator.jobs.job import attempt_input, job_manifest, with_transcript_annotations
from coding_agent_operator.tasks.budgets import next_allowance
from coding_agent_operator.tasks.evidence import EvidencePod


class ProcessBuilder:
    """The `Builder` of one machine. Its Jobs have the labels, annotations and owners of a cluster's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def build(self, task: AgentTask, number: int) -> Mapping[str, Any]:
        """Return the manifest of attempt `number`."""
        settings, template = self._settings, self._settings.operator.job
        allowance = next_allowance(task, settings.budgets)
        annotations = (
            {ANNOTATION_ALLOWANCE: allowance.model_dump_json(exclude_none=True)} if allowance else {}
        )
        text = attempt_input(task, number, allowance).to_json()
        seconds = task.spec.timeout_seconds + template.grace_seconds + template.start_seconds
        pod = {
            "activeDeadlineSeconds": seconds,
            "terminationGracePeriodSeconds": template.grace_seconds,
            "containers": [{"name": AGENT_CONTAINER, "env": [{"name": ENVIRONMENT_VARIABLE, "value": text}]}],
        }
        manifest = job_manifest(
            task,
            job_name(task.name, number),
            pod,
            template,
            component=ATTEMPT,
            labels={LABEL_ATTEMPT: str(number)},
            annotations=annotations,
            container=AGENT_CONTAINER,
        )
        return with_transcript_annotations(manifest, task, number, settings.context_storage)

    async def build_evidence(self, task: AgentTask, pod: EvidencePod) -> Mapping[str, Any]:
        raise NotImplementedError("evidence needs pods, and the program of one machine asks for none")

    def environment_refusal(self, environment: Environment) -> str | None:
        """Return why no attempt may have this environment, `None` if it may."""
        if environment.image or environment.services:
            return "attempts are processes of one machine, which have no pod for an image or services"
        return None
