"""The session of a command: the cluster that it reads, its output streams, and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from coding_agent_core.task.agenttask import AgentTask
from rich.console import Console

from kubectl_agenttask.argument_types import OBJECTS, Format
from kubectl_agenttask.cluster_client import ClusterAccess
from kubectl_agenttask.output import show_task


@dataclass(frozen=True)
class Session:
    """The cluster and the output streams of a command.

    Attributes:
        out: receives the result.
        notes: receives messages for the person that are not part of the result.
        raw: receives logs, byte for byte.
    """

    cluster: ClusterAccess
    out: Console
    notes: Console
    raw: BinaryIO
    clock: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def show(self, task: AgentTask, form: Format | None, sentence: str) -> None:
        """Print a task in the format of `-o`; without one, print the sentence about it."""
        if form in OBJECTS:
            show_task(self.out, task, form)
        else:
            self.out.print(sentence, soft_wrap=True)
