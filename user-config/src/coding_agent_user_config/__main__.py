"""`python -m coding_agent_user_config --directory DIR [--host H] [--port P]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from coding_agent_user_config.app import create_app
from coding_agent_user_config.store import Store


def main() -> int:
    """Run the service; the key comes from the environment or the file that it names."""
    parser = argparse.ArgumentParser(description="Serves per-user settings from YAML files")
    parser.add_argument("--directory", type=Path, default=Path("user-config.d"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    key_file = os.environ.get("USER_CONFIG_API_KEY_FILE")
    try:
        key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else ""
        app = create_app(Store(arguments.directory), key or os.environ.get("USER_CONFIG_API_KEY", ""))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 78
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
