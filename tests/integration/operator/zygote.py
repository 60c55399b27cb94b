"""Starts operators quickly: everything is imported once, then each is a fork.

Reads a JSON object of environment variables a line, answers with the pid of the operator that got them.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from coding_agent_operator import program
from coding_agent_operator.settings import load


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the ended ones away
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ.update(json.loads(line))
            program.main(load(os.environ))
            os._exit(0)
        print(pid, flush=True)


main()
