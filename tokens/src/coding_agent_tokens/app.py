"""The HTTP endpoints of the token service: `POST /v1/token` and `GET /v1/account`."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from coding_agent_core.errors import CodingAgentError, ForgeUnavailableError, TokenMissingError
from coding_agent_core.forge.calls import User
from coding_agent_core.forge.github.app import Purpose
from coding_agent_core.forge.github.app_tokens import AppToken
from coding_agent_core.forge.github.service_token import ACCOUNT_PATH, TOKEN_PATH
from coding_agent_core.forge.github.token_credential import read_credential
from coding_agent_core.retry import Clock
from coding_agent_core.settings.section import Secrets
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coding_agent_tokens.callers import Caller, attempt_of
from coding_agent_tokens.reviews import Reviews, ReviewsLimitedError

_logger = logging.getLogger("coding_agent.tokens")
_RETRY_AFTER = 10
"""Seconds for callers to wait if GitHub or the API server does not say how long."""
_LONGEST_CREDENTIAL = 16_384
_LARGEST_BODY = 4096
"""Bytes. A repository has at most 200 characters."""


class TokenGiver(Protocol):
    """Gives tokens of the App; see `AppTokens`."""

    async def token(self, repository: str, purpose: Purpose, refused: str = "") -> AppToken: ...

    async def account(self) -> User: ...


@dataclass(frozen=True)
class Identification:
    """What the service needs to know who asks.

    Attributes:
        host: the web host of the forge whose App this is.
        keys: the key for attempts' credentials; during a rotation, also the old one.
    """

    host: str
    keys: Secrets
    reviews: Reviews
    clock: Clock

    async def caller(self, request: Request) -> Caller | None:
        """Return who sends a request; `None` if nobody who may have tokens.

        Raises:
            ReviewsLimitedError: the API server was asked too often.
            CodingAgentError: the API server cannot be asked.
        """
        authorization = request.headers.get("authorization", "")
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given or len(given) > _LONGEST_CREDENTIAL:
            return None
        credential = read_credential(given, self.keys.current(), self.clock.now())
        if credential is not None:
            return attempt_of(credential, self.host)
        address = "" if request.client is None else request.client.host
        return await self.reviews.program(given, address)


class _Wanted(BaseModel):
    """A request for a token; `refused` is the `token_hash` of the one that GitHub did not accept."""

    model_config = ConfigDict(extra="forbid")

    repository: str = Field(default="", max_length=200, pattern=r"^([^/\s]+/[^/\s]+)?$")
    refused: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


def token_app(tokens: TokenGiver, identification: Identification) -> FastAPI:
    """Return the app. Every answer but 200 has a `message` for people."""
    app = FastAPI(title="coding agent tokens", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "healthy"})

    @app.post(TOKEN_PATH)
    async def token(request: Request) -> JSONResponse:
        async def answer(caller: Caller) -> JSONResponse:
            # A parameter of the endpoint would be read without a limit, and before it is known who asks.
            body = await _read(request)
            if body is None:
                return _answer(413, f"The request has more than {_LARGEST_BODY} bytes.")
            try:
                wanted = _Wanted.model_validate_json(body)
            except ValidationError:
                return _answer(422, 'The request is not JSON such as {"repository": "OWNER/NAME"}.')
            refusal = caller.refusal(wanted.repository)
            if refusal is not None:
                _logger.warning("Refused: %s", refusal)
                return _answer(403, refusal)
            given = await tokens.token(wanted.repository, caller.purpose, wanted.refused)
            _logger.info("%s has a token for %s", caller.name, wanted.repository or "all repositories")
            shown = {"token": given.token, "expires_in": given.expires_in}
            return JSONResponse(shown, headers={"Cache-Control": "no-store"})

        return await _answered(identification, request, answer)

    @app.get(ACCOUNT_PATH)
    async def account(request: Request) -> JSONResponse:
        async def answer(_: Caller) -> JSONResponse:
            return JSONResponse((await tokens.account()).model_dump())

        return await _answered(identification, request, answer)

    return app


async def _read(request: Request) -> bytes | None:
    """Return the body; `None` if it is too large."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_BODY:
            return None
    return body


async def _answered(
    identification: Identification, request: Request, answer: Callable[[Caller], Awaitable[JSONResponse]]
) -> JSONResponse:
    """Find out who asks, and return the answer for them, or why there is none."""
    try:
        caller = await identification.caller(request)
    except ReviewsLimitedError as error:  # not logged, because strangers decide how often this happens
        return _answer(error.status, str(error), **{"Retry-After": str(math.ceil(error.retry_after))})
    except CodingAgentError as error:
        _logger.warning("Cannot find out who asks for a token: %s", error)
        return _unavailable("The token service cannot find out who asks.", None)
    if caller is None:
        return _answer(401, "The token service does not know who asks, or the credential has expired.")
    try:
        return await answer(caller)
    except (ForgeUnavailableError, TokenMissingError) as error:
        _logger.warning("No token for %s: %s", caller.name, error)
        return _unavailable(str(error), getattr(error, "retry_after", None))
    except CodingAgentError as error:
        _logger.warning("No token for %s: %s", caller.name, error)
        return _answer(403, str(error))


def _answer(status: int, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"message": message}, status, headers)


def _unavailable(message: str, retry_after: float | None) -> JSONResponse:
    wait = _RETRY_AFTER if retry_after is None else math.ceil(retry_after)
    return _answer(503, message, **{"Retry-After": str(wait)})
