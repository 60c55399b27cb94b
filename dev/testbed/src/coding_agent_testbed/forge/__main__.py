"""`python -m coding_agent_testbed.forge`: one forge as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

import uvicorn

from coding_agent_testbed.forge.app import create_app
from coding_agent_testbed.forge.clock import Clock
from coding_agent_testbed.forge.model import Flavour
from coding_agent_testbed.forge.seed import load
from coding_agent_testbed.forge.server import config_for, listen


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="coding_agent_testbed.forge", description=__doc__)
    parser.add_argument("--flavour", choices=[entry.value for entry in Flavour], default="github")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one and prints it")
    parser.add_argument("--public-url", help="the address that clients use, if not http://HOST:PORT")
    parser.add_argument("--data", type=Path, help="an empty folder for the git repositories")
    parser.add_argument("--seed", type=Path, required=True, help="YAML file of users, repositories and hooks")
    parser.add_argument(
        "--clock-ahead", type=float, default=0.0, help="seconds that its clock is ahead; negative: behind"
    )
    arguments = parser.parse_args()
    sock = listen(arguments.host, arguments.port)
    url = (arguments.public_url or f"http://{arguments.host}:{sock.getsockname()[1]}").rstrip("/")
    data = arguments.data or Path(tempfile.mkdtemp(prefix="sandbox-forge-"))
    clock = Clock(timedelta(seconds=arguments.clock_ahead))
    app = create_app(Flavour(arguments.flavour), load(arguments.seed), data, url, clock)
    print(f"sandbox {arguments.flavour} at {url}", flush=True)
    asyncio.run(uvicorn.Server(config_for(app)).serve(sockets=[sock]))


if __name__ == "__main__":
    main()
