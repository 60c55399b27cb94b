"""`python -m coding_agent_user_config --directory DIR [--host H] [--port P]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from coding_agent_user_config.app import ApiKey, create_app

EX_CONFIG = 78


def main() -> int:
    """Run the service, with the key from the environment or from the file that it names.

    Exit code 78: the configuration is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="coding_agent_user_config", description="Serves per-user settings from YAML files"
    )
    parser.add_argument("--directory", type=Path, default=Path("user-config.d"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    key_file = os.environ.get("USER_CONFIG_API_KEY_FILE")
    key = ApiKey(os.environ.get("USER_CONFIG_API_KEY", ""), Path(key_file) if key_file else None)
    try:
        app = create_app(arguments.directory, key)
    except (OSError, ValueError) as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return EX_CONFIG
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False, server_header=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
