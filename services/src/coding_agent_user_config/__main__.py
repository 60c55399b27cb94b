"""`python -m coding_agent_user_config --directory DIR` serves per-user settings over HTTP from YAML files.

`GET /config/{platform}/{username}` needs a Bearer key.

A user's settings are those of `DIR/<platform>/<username>.yaml` merged over those of `DIR/default.yaml`.
Settings and the file with the key are read for each request, so an edit takes effect at once.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The image starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import argparse
import hmac
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.http_server import ClientLimits, listen, run, serve, stop_on_signals
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse

EX_CONFIG = 78
LIMITS = ClientLimits(grace=10)

_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
"""Matches logins; a login that matches cannot lead out of the folder."""
_logger = logging.getLogger("coding_agent.user_config")


class UnreadableError(Exception):
    """The error if a settings file is not a YAML mapping; the message names the file."""


@dataclass(frozen=True)
class ApiKey:
    """The key that a client must send: the value or the file's content; during a rotation both are valid."""

    value: str = field(default="", repr=False)
    file: Path | None = None

    def accepts(self, authorization: str | None) -> bool:
        """Whether the header is `Bearer KEY` with a current key, compared in constant time.

        Raises:
            OSError: the file cannot be read.
            UnicodeDecodeError: the file is not text.
        """
        given = (authorization or "").encode()
        return any(hmac.compare_digest(given, f"Bearer {key}".encode()) for key in self.current())

    def current(self) -> list[str]:
        """Return the current keys; this raises the same errors as `accepts`."""
        stored = self.file.read_text(encoding="utf-8") if self.file is not None else ""
        return [key for key in (self.value.strip(), stored.strip()) if key]


def user_config_app(directory: Path, key: ApiKey) -> FastAPI:
    """Return an app that serves the settings in a folder; every request except `/health` needs the key.

    Raises:
        ValueError: there is no key, so everybody would have access.
        OSError: the key's file cannot be read.
    """
    if not key.current():
        raise ValueError("no API key: set USER_CONFIG_API_KEY or USER_CONFIG_API_KEY_FILE")
    app = FastAPI(title="coding agent user config", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> JSONResponse:
        if not directory.is_dir():
            return _answer(503, status="unhealthy", message=f"the folder {directory} does not exist")
        return _answer(200, status="healthy")

    @app.get("/config/{platform}/{username}")
    def config(
        platform: str, username: str, authorization: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        try:
            accepted = key.accepts(authorization)
        except (OSError, UnicodeDecodeError) as error:
            _logger.error("Cannot read the API key's file: %s", type(error).__name__)  # noqa: TRY400
            return _answer(503, status="error", message="the service cannot read its own API key")
        if not accepted:
            return _answer(401, status="error", message="the Bearer key is missing or wrong")
        try:
            settings = read_settings(directory, platform, username)
        except UnreadableError as error:
            _logger.error("Cannot serve the settings of %s/%s: %s", platform, username, error)  # noqa: TRY400
            return _answer(500, status="error", message=f"the stored settings cannot be read: {error}")
        if settings is None:
            return _answer(404, status="error", message="no settings are stored for this user")
        return _answer(200, status="success", data=settings)

    return app


def read_settings(directory: Path, platform: str, username: str) -> dict[str, Any] | None:
    """Return the user's settings merged over the defaults; `None` if there are neither.

    Raises:
        UnreadableError: a file is not a YAML mapping.
    """
    if platform not in list(Platform) or not _USERNAME.fullmatch(username):
        return None
    paths = (directory / "default.yaml", directory / platform / f"{username.lower()}.yaml")
    found = [data for path in paths if (data := _read(path, directory)) is not None]
    merged: dict[str, Any] = {}
    for data in found:
        merged = _merge(merged, data)
    return merged if found else None


def _read(path: Path, directory: Path) -> dict[str, Any] | None:
    name = path.relative_to(directory)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnreadableError(f"{name}: {type(error).__name__}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UnreadableError(f"{name}: not a mapping of settings")
    return data


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the values of the override."""
    result = dict(base)
    # The base's key belongs to the base's address, and must not be sent to another one.
    if "base_url" in override:
        result.pop("api_key", None)
    for key, value in override.items():
        below = result.get(key)
        result[key] = _merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def _answer(code: int, **body: Any) -> JSONResponse:
    return JSONResponse(body, status_code=code)


def main() -> int:
    """Run the service; its key is in the environment or in the file that it names."""
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
        app = user_config_app(arguments.directory, key)
    except (OSError, ValueError) as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return EX_CONFIG
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        listener = listen(arguments.host, arguments.port)
    except SettingsError as error:
        print(f"The service cannot start: {error}", file=sys.stderr)
        return EX_CONFIG
    _logger.info("Serving the settings of users on port %d", listener.getsockname()[1])

    async def serve_until_stopped() -> None:
        await serve(app, listener, stop_on_signals(), LIMITS)

    run(serve_until_stopped())
    return 0


if __name__ == "__main__":
    sys.exit(main())
