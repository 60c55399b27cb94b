"""What a look at a task works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.forge.protocol import Forge
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.operator import Reporter


@dataclass(frozen=True)
class Place:
    """Where the tasks of one forge are shown.

    Attributes:
        clock: aware time; `monotonic`: seconds.
        check_interval: seconds between two looks at an item to which nothing happens.
    """

    forge: Forge
    labels: Labels
    tasks: AgentTasks
    sink: TaskSink
    settings: Reporter
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    check_interval: Callable[[], float]
