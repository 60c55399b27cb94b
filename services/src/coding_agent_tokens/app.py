"""The HTTP endpoints of the token service: `POST /v1/token` and `GET /v1/account`."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coding_agent_core.errors import CodingAgentError, ForgeUnavailableError, TokenMissingError
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.section import Secrets
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import ACCOUNT_PATH, TOKEN_PATH
from coding_agent_forges.github.auth.app_tokens import AppToken
from coding_agent_forges.github.auth.token_credential import read_credential
from coding_agent_forges.rest.calls import User
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coding_agent_tokens.callers import Caller, attempt_of
from coding_agent_tokens.metrics import Result, TokenMetrics, result_of
from coding_agent_tokens.reviews import Reviews, ReviewsLimitedError

_logger = logging.getLogger("coding_agent.tokens")
_RETRY_AFTER = 10
"""Seconds for callers to wait if GitHub or the API server does not say how long."""
_LONGEST_CREDENTIAL = 16_384
_LARGEST_BODY = 4096
"""Bytes. A repository has at most 200 characters."""


class TokenGiver(Protocol):
    """The interface that issues tokens of the App."""

    async def token(
        self, repository: str, purpose: Purpose, refused: str = "", within: tuple[str, ...] | None = None
    ) -> AppToken: ...

    async def account(self) -> User: ...


@dataclass(frozen=True)
class Identification:
    """The identification of callers.

    Attributes:
        host: the web host of the forge whose App this is.
        keys: the key for attempts' credentials; during a rotation, also the old one.
        namespaces: the owners and repositories of each namespace; if empty, all get tokens for all.
    """

    host: str
    keys: Secrets
    reviews: Reviews
    clock: Clock
    namespaces: Mapping[str, Sequence[str]] = field(default_factory=dict)

    async def caller(self, request: Request) -> Caller | None:
        """Return the sender of a request; `None` if the sender may not have tokens.

        Raises:
            ReviewsLimitedError: the API server was asked too often.
            CodingAgentError: the API server cannot be asked.
        """
        authorization = request.headers.get("authorization", "")
        scheme, _, given = authorization.partition(" ")
        # A stranger must not make us hash or send on a huge text.
        if scheme.lower() != "bearer" or not given or len(given) > _LONGEST_CREDENTIAL:
            return None
        # An attempt's credential is checked here, and costs the API server nothing.
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


class _RefusalError(Exception):
    """The error if a request is refused.

    Attributes:
        retry_after: the seconds for the caller to wait; `None` if waiting does not help.
    """

    def __init__(self, result: str, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.result = result
        self.status = status
        self.retry_after = retry_after


def token_app(tokens: TokenGiver, identification: Identification, metrics: TokenMetrics) -> FastAPI:
    """Return the ASGI application. Every response but 200 has a `message` for people."""
    # Nobody but our programs asks this service, so it shows no pages.
    app = FastAPI(title="coding agent tokens", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "healthy"})

    @app.post(TOKEN_PATH)
    async def token(request: Request) -> JSONResponse:
        return await answered(request, give_token)

    @app.get(ACCOUNT_PATH)
    async def account(request: Request) -> JSONResponse:
        return await answered(request, give_account)

    async def answered(
        request: Request, give: Callable[[Request, Caller], Awaitable[JSONResponse]]
    ) -> JSONResponse:
        try:
            caller = await _caller(identification, request)
            response = await _given(caller, give(request, caller))
        except _RefusalError as refusal:
            metrics.count(refusal.result)
            wait = refusal.retry_after
            headers = {} if wait is None else {"Retry-After": str(math.ceil(wait))}
            return JSONResponse({"message": str(refusal)}, refusal.status, headers)
        metrics.count(Result.GIVEN)
        return response

    async def give_token(request: Request, caller: Caller) -> JSONResponse:
        # The body is read here. A parameter of the endpoint would be read without a limit, and before the
        # caller is identified.
        wanted = _wanted(await _read(request))
        scope = caller.scope(identification.namespaces)
        refusal = caller.refusal(wanted.repository, scope)
        if refusal is not None:
            _logger.warning("Refused: %s", refusal)
            raise _RefusalError(Result.OTHER_REPOSITORY, 403, refusal)
        given = await tokens.token(wanted.repository, caller.purpose, wanted.refused, scope)
        _logger.info("%s has a token for %s", caller.name, wanted.repository or "all repositories")
        shown = {"token": given.token, "expires_in": given.expires_in}
        # No proxy on the way may keep a token.
        return JSONResponse(shown, headers={"Cache-Control": "no-store"})

    async def give_account(request: Request, caller: Caller) -> JSONResponse:
        return JSONResponse((await tokens.account()).model_dump())

    return app


async def _caller(identification: Identification, request: Request) -> Caller:
    """Identify the sender of a request.

    Raises:
        _RefusalError: the sender may not have tokens, or this cannot be found out now.
    """
    try:
        caller = await identification.caller(request)
    except ReviewsLimitedError as error:  # not logged, because strangers decide how often this happens
        raise _RefusalError(Result.TOO_MANY, error.status, str(error), error.retry_after) from error
    except CodingAgentError as error:
        _logger.warning("Cannot find out who asks for a token: %s", error)
        message = "The token service cannot find out who asks."
        raise _RefusalError(Result.REVIEW_FAILED, 503, message, _RETRY_AFTER) from error
    if caller is None:
        message = "The token service does not know who asks, or the credential has expired."
        raise _RefusalError(Result.CALLER_UNKNOWN, 401, message)
    return caller


async def _read(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        _RefusalError: the body is too large.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_BODY:
            message = f"The request has more than {_LARGEST_BODY} bytes."
            raise _RefusalError(Result.MALFORMED, 413, message)
    return body


def _wanted(body: bytes) -> _Wanted:
    try:
        return _Wanted.model_validate_json(body)
    except ValidationError:
        message = 'The request is not JSON such as {"repository": "OWNER/NAME"}.'
        raise _RefusalError(Result.MALFORMED, 422, message) from None


async def _given(caller: Caller, answer: Awaitable[JSONResponse]) -> JSONResponse:
    """Wait for the response with a token.

    Raises:
        _RefusalError: there is no token; the sentence says why.
    """
    try:
        return await answer
    except (ForgeUnavailableError, TokenMissingError) as error:
        _logger.warning("No token for %s: %s", caller.name, error)
        wait = getattr(error, "retry_after", None)
        raise _RefusalError(
            result_of(error), 503, str(error), _RETRY_AFTER if wait is None else wait
        ) from error
    except CodingAgentError as error:
        _logger.warning("No token for %s: %s", caller.name, error)
        raise _RefusalError(result_of(error), 403, str(error)) from error
