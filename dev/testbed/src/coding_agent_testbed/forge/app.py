"""The web application of one flavour: API, git, pages and admin endpoints in one process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from coding_agent_testbed.forge import admin, git_http
from coding_agent_testbed.forge.ci import ContinuousIntegration
from coding_agent_testbed.forge.clock import Clock, DateHeader
from coding_agent_testbed.forge.deliveries import Deliveries
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.faults import Faults
from coding_agent_testbed.forge.flavours import FLAVOURS
from coding_agent_testbed.forge.model import CheckHappening, Flavour, Happening
from coding_agent_testbed.forge.requestlog import KEPT, RequestLog
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.seed import Seed, plant
from coding_agent_testbed.forge.store import Store
from coding_agent_testbed.forge.web import routes as web


def create_app(
    flavour: Flavour,
    seed: Seed,
    folder: Path,
    base_url: str,
    clock: Clock | None = None,
) -> FastAPI:
    """A forge, seeded: bare repositories go into `folder`, all else stays in memory.

    Raises:
        ValueError: the seed has no admin, or names somebody or something that is not in it.
    """
    wording = FLAVOURS[flavour]
    clock = clock or Clock()
    store = Store(flavour, clock)
    plant(seed, store, folder)
    person = next((user for user in store.users if user.admin), None)
    if person is None:
        raise ValueError("the seed needs a user with admin: true; the pages act as that person")
    sandbox = Sandbox(
        store, Deliveries(store, wording.seal, wording.new_guid), base_url, person, deque(maxlen=KEPT), clock
    )
    ci = ContinuousIntegration(sandbox.reviews)

    def tell(happening: Happening) -> None:
        wording.tell(sandbox, happening)
        ci.see(happening)

    def tell_check(happening: CheckHappening) -> None:
        wording.tell_check(sandbox, happening)
        ci.see_check(happening)

    store.listener, sandbox.reviews.listener = tell, tell_check

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sandbox.deliveries.start()
        yield
        await ci.stop()
        await sandbox.deliveries.stop()

    app = FastAPI(
        title=f"Sandbox {flavour}",
        routes=list(_routes(flavour)),
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.sandbox = sandbox
    app.middleware("http")(wording.headers)
    _explain_refusals(app, wording.refused, wording.validation_failed)
    return app


def with_faults(app: FastAPI) -> DateHeader:
    """The application as a server runs it: log and faults stand outside of all else, next to the wire."""
    sandbox = app.state.sandbox
    assert isinstance(sandbox, Sandbox)
    return DateHeader(RequestLog(Faults(app, sandbox.faults), sandbox.requests), sandbox.clock)


@cache
def _routes(flavour: Flavour) -> tuple[BaseRoute, ...]:
    """The routes of a flavour. They find the sandbox in the application that they serve.

    FastAPI takes 60 ms of processor time to prepare them, and a test run starts hundreds of forges.
    """
    shared = FastAPI(openapi_url=None)
    shared.include_router(admin.router)
    shared.include_router(FLAVOURS[flavour].router())
    for method, service in (("GET", "info/refs"), ("POST", "git-upload-pack"), ("POST", "git-receive-pack")):
        shared.add_route("/{name:path}/" + service, _serve_git, methods=[method])
    shared.include_router(web.router)
    return tuple(shared.router.routes)


async def _serve_git(request: Request) -> Response:
    return await git_http.serve(request, request.app.state.sandbox)


def _explain_refusals(
    app: FastAPI,
    refused: Callable[[HttpError], Response],
    validation_failed: Callable[[list[object]], HttpError],
) -> None:
    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HttpError)
        return refused(error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refused(validation_failed(list(error.errors())))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "Not Found" if error.status_code == 404 else str(error.detail)
        return refused(HttpError(error.status_code, message))

    app.add_exception_handler(HttpError, on_refused)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
