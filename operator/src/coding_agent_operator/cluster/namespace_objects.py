"""The objects of one namespace with which its controller works."""

from __future__ import annotations

from dataclasses import dataclass

from coding_agent_core.task.agenttask import AgentTask

from coding_agent_operator.cluster.attempt_pods import AttemptPods
from coding_agent_operator.cluster.attempts import Attempts
from coding_agent_operator.cluster.controller import ObjectCache
from coding_agent_operator.cluster.observed import Job


@dataclass(frozen=True)
class NamespaceObjects:
    """How the objects of a namespace are read and written, and what the watches show of them.

    Attributes:
        cluster: runs the namespace's attempts, and has the store of its tasks.
        tasks: the active tasks, of all watched namespaces.
        jobs: the active Jobs, of all watched namespaces.
        pods: the pods of the namespace's attempts.
    """

    cluster: Attempts
    tasks: ObjectCache[AgentTask]
    jobs: ObjectCache[Job]
    pods: AttemptPods
