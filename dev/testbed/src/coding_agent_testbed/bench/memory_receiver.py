"""The receiver over an in-memory queue, for its benchmark: `main.py` would work on the tasks besides."""

from __future__ import annotations

import sys
from pathlib import Path

from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.load import load_settings
from coding_agent_receiver.server import run


def main() -> None:
    """Serve until SIGTERM; the argument is the settings' file."""
    settings = load_settings(Path(sys.argv[1]))
    configure(settings.logging)
    run(settings, MemoryQueue())


if __name__ == "__main__":
    main()
