"""Starts reporters quickly: everything is imported once, then each is a fork.

Reads a JSON object a line (environment variables, and the file to log to), answers with the reporter's pid.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from coding_agent_core.forge import github, gitlab  # noqa: F401 - imported once for all forks
from coding_agent_core.settings import load_settings
from coding_agent_operator.reporter import program


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the ended ones away
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            order = json.loads(line)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            os.environ.update(order["environment"])
            program.main(load_settings())
            os._exit(0)
        print(pid, flush=True)


main()
