"""The Job of an attempt, built from plain data. Pure; the pod's spec stands alone, to be replaced alone."""

from __future__ import annotations

import json
from typing import Any

from coding_agent_core.agenttask import API_VERSION, KIND, LABEL_ACTIVE, LABEL_ATTEMPT, LABEL_TASK, labels_for
from coding_agent_core.outcome import ExitCode
from coding_agent_core.queued_task import QueuedTask
from coding_agent_core.tasks import TaskRequest, Trigger

from coding_agent_operator.names import AGENT_CONTAINER, MANAGER, job_name, label_value
from coding_agent_operator.observed import Task
from coding_agent_operator.settings import JobTemplate

PERMANENT = (ExitCode.CANNOT, ExitCode.REFUSED, ExitCode.CONFIGURATION)
"""Exit codes with which the Job fails at once, whatever else its policy says."""


def build_job(task: Task, number: int, template: JobTemplate) -> dict[str, Any]:
    """The manifest of attempt `number`; the same for the same arguments."""
    shared = {
        **{key: value for key, value in labels_for(task.spec.item).items() if key != LABEL_ACTIVE},
        LABEL_TASK: label_value(task.name),
        LABEL_ATTEMPT: str(number),
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/component": "attempt",
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(task.name, number),
            "labels": {**shared, LABEL_ACTIVE: "true"},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": task.name,
                    "uid": task.uid,
                    "controller": True,
                    # Without it the operator would need the right to write finalizers of AgentTasks.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": task.spec.timeout_seconds,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": AGENT_CONTAINER,
                            "operator": "In",
                            "values": [code.value for code in PERMANENT],
                        },
                    },
                ]
            },
            "template": {"metadata": {"labels": shared}, "spec": pod_spec(task, number, template)},
        },
    }


def pod_spec(task: Task, number: int, template: JobTemplate) -> dict[str, Any]:
    """The attempt's pod: one container under restricted Pod Security, without a Kubernetes token."""
    container: dict[str, Any] = {
        "name": AGENT_CONTAINER,
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "command": list(template.command),
        "env": [
            {"name": "CODING_AGENT_TASK", "value": json.dumps(task_data(task, number), ensure_ascii=False)},
            {"name": "HOME", "value": "/work"},
            {"name": "TMPDIR", "value": "/work"},
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in template.env_from_secrets],
        "resources": {"requests": template.requests, "limits": template.limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        "workingDir": "/app",
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": template.service_account,
        "terminationGracePeriodSeconds": template.grace_seconds,
        "nodeSelector": template.node_selector,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": template.user,
            "runAsGroup": template.user,
            "fsGroup": template.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "work", "emptyDir": {}}],
    }


def task_data(task: Task, number: int) -> dict[str, Any]:
    """The task as it crosses a queue: the attempt reads it as every consumer does."""
    spec = task.spec
    return QueuedTask(
        request=TaskRequest(
            item=spec.item,
            user=spec.user,
            title=spec.title,
            url=spec.url,
            trigger=Trigger.model_validate(spec.trigger.model_dump()),
        ),
        uuid=spec.uuid,
        run=spec.run,
        attempt=number,
    ).to_message()
