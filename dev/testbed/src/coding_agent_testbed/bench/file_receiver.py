"""The receiver over a file of tasks, for its benchmark: `main.py` would work on the tasks besides."""

from __future__ import annotations

import sys
from pathlib import Path

from coding_agent_core.kubernetes.task_sink import StoreSink
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.load import load_settings
from coding_agent_core.task.task_store import TaskStore
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_core.task_file.tasks import FileTasks
from coding_agent_receiver.server import run


def main() -> None:
    """Serve until SIGTERM; the argument is the settings' file."""
    file = Path(sys.argv[1])
    settings = load_settings(file)
    configure(settings.logging)

    async def connect() -> TaskStore:
        return FileTasks(ObjectFile(file.with_suffix(".sqlite")))

    run(settings, StoreSink(connect, settings.consumer))


if __name__ == "__main__":
    main()
