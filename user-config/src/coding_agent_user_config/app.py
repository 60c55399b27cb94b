"""`GET /config/{platform}/{username}` with a Bearer key, as the agent asks for it (requirement S22)."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse

from coding_agent_user_config.key import ApiKey
from coding_agent_user_config.store import Store, UnreadableError

_logger = logging.getLogger("coding_agent.user_config")


def create_app(store: Store, key: ApiKey) -> FastAPI:
    """The service over a store; every request but `/health` must bring the key.

    Raises:
        ValueError: there is no key, which would let everybody in.
        OSError: the key's file cannot be read.
    """
    if not key.current():
        raise ValueError("no API key: set USER_CONFIG_API_KEY or USER_CONFIG_API_KEY_FILE")
    app = FastAPI(title="coding agent user config", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> JSONResponse:
        if not store.directory.is_dir():
            return _answer(503, status="unhealthy", message=f"there is no folder {store.directory}")
        return _answer(200, status="healthy")

    @app.get("/config/{platform}/{username}")
    async def config(
        platform: str, username: str, authorization: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        try:
            accepted = key.accepts(authorization)
        except (OSError, UnicodeDecodeError) as error:
            _logger.error("Cannot read the API key's file: %s", type(error).__name__)  # noqa: TRY400
            return _answer(503, status="error", message="the service cannot read its own key")
        if not accepted:
            return _answer(401, status="error", message="the Bearer key is missing or wrong")
        try:
            settings = store.settings(platform, username)
        except UnreadableError as error:
            _logger.error("Cannot serve the settings of %s/%s: %s", platform, username, error)  # noqa: TRY400
            return _answer(500, status="error", message=f"the stored settings cannot be read: {error}")
        if settings is None:
            return _answer(404, status="error", message="no settings are stored for this person")
        return _answer(200, status="success", data=settings)

    return app


def _answer(code: int, **body: Any) -> JSONResponse:
    return JSONResponse(body, status_code=code)
