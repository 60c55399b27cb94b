"""`python -m coding_agent_testbed.model --port N --scripts FOLDER`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from coding_agent_testbed.model.script import load_scripts
from coding_agent_testbed.model.server import KEEP_ALIVE, create_app


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="coding_agent_testbed.model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--scripts", type=Path, required=True, help="folder of *.yaml scripts")
    parser.add_argument(
        "--api-key", default=os.environ.get("MODEL_API_KEY"), help="demanded of clients (or MODEL_API_KEY)"
    )
    arguments = parser.parse_args()
    try:
        scripts = load_scripts(arguments.scripts)
    except ValueError as error:
        sys.exit(str(error))
    if not scripts:
        sys.exit(f"{arguments.scripts}: no *.yaml scripts there")
    app = create_app(scripts, api_key=arguments.api_key)
    uvicorn.run(
        app, host=arguments.host, port=arguments.port, log_level="warning", timeout_keep_alive=KEEP_ALIVE
    )


if __name__ == "__main__":
    main()
