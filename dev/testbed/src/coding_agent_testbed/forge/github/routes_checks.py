"""Check runs, workflow runs with their jobs and logs, and commit statuses."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import Actor, InRepository, SandboxOf, needs_write, paged
from coding_agent_testbed.forge.github.routes_reviews import RenderReviews
from coding_agent_testbed.forge.model import Check, Repository
from coding_agent_testbed.forge.sandbox import Sandbox

router = APIRouter(prefix="/repos/{owner}/{repo}")
storage = APIRouter(prefix="/_storage")


@router.get("/commits/{sha}/check-runs")
async def check_runs(
    sha: str,
    request: Request,
    response: Response,
    repository: InRepository,
    render: RenderReviews,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """Check runs of a commit: the newest of each name unless `filter=all`."""
    if not user.reads_checks:
        raise HttpError(403, "Resource not accessible by personal access token")
    latest = request.query_params.get("filter") != "all"
    found = [one for one in sandbox.reviews.checks(repository, sha, latest=latest) if one.log is not None]
    users = sandbox.store.users
    shown = [render.check_run(repository, check, users) for check in paged(found, request, response)]
    return {"total_count": len(found), "check_runs": shown}


@router.get("/commits/{sha}/status")
async def status(
    sha: str,
    request: Request,
    response: Response,
    repository: InRepository,
    render: RenderReviews,
    sandbox: SandboxOf,
) -> dict[str, Any]:
    """The statuses that other programs gave a commit."""
    found = [one for one in sandbox.reviews.checks(repository, sha, latest=True) if one.log is None]
    url = f"{render.repository_url(repository)}/commits/{sha}"
    results = {check.result for check in found}
    failed = results & {"failure", "error"}
    return {
        "state": "failure" if failed else "success" if results == {"success"} else "pending",
        "statuses": [render.status(repository, check) for check in paged(found, request, response)],
        "sha": sha,
        "total_count": len(found),
        "repository": render.repository(repository, sandbox.store.users),
        "commit_url": url,
        "url": f"{url}/status",
    }


class NewStatus(BaseModel):
    """Body of `POST statuses/{sha}`."""

    state: Literal["error", "failure", "pending", "success"]
    target_url: str | None = None
    description: str | None = Field(None, max_length=140)
    context: str = "default"


@router.post("/statuses/{sha}", status_code=201)
async def set_status(
    sha: str,
    status: NewStatus,
    repository: InRepository,
    render: RenderReviews,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """Give a commit a status."""
    needs_write(repository, user)
    if not await asyncio.to_thread(git.has_commit, repository.path, sha):
        raise HttpError(422, f"No commit found for SHA: {sha}")
    check = sandbox.reviews.add_check(
        repository,
        sha,
        status.context,
        "" if status.state == "pending" else status.state,
        summary=status.description or "",
        url=status.target_url or "",
        by=user,
    )
    return render.status(repository, check) | {"creator": render.user(user)}


@router.get("/actions/runs")
async def workflow_runs(
    request: Request, response: Response, repository: InRepository, render: RenderReviews, sandbox: SandboxOf
) -> dict[str, Any]:
    """Workflow runs, of one commit with `head_sha`."""
    runs: dict[int, list[Check]] = {}
    for check in sandbox.reviews.checks(repository, request.query_params.get("head_sha"), latest=True):
        if check.log is not None:
            runs.setdefault(check.run, []).append(check)
    users = sandbox.store.users
    shown = [
        render.workflow_run(repository, checks, _branch(repository, checks[0].sha), users)
        for checks in paged(list(runs.values()), request, response)
    ]
    return {"total_count": len(runs), "workflow_runs": shown}


@router.get("/actions/runs/{run}/jobs")
async def jobs(
    run: int,
    request: Request,
    response: Response,
    repository: InRepository,
    render: RenderReviews,
    sandbox: SandboxOf,
) -> dict[str, Any]:
    """Jobs of a workflow run: those of its last attempt unless `filter=all`."""
    latest = request.query_params.get("filter") != "all"
    found = _jobs(sandbox.reviews.checks(repository, latest=latest), run)
    shown = [
        render.job(repository, check, _branch(repository, check.sha))
        for check in paged(found, request, response)
    ]
    return {"total_count": len(found), "jobs": shown}


@router.post("/actions/jobs/{job}/rerun", status_code=201)
async def rerun_job(job: int, repository: InRepository, sandbox: SandboxOf, user: Actor) -> dict[str, Any]:
    """Run a job again."""
    needs_write(repository, user)
    check = _check_with_log(sandbox.reviews.checks(repository, latest=True), job)
    sandbox.reviews.rerun(repository, check, user)
    return {}


@router.post("/actions/runs/{run}/rerun-failed-jobs", status_code=201)
async def rerun_failed_jobs(
    run: int, repository: InRepository, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Run the failed jobs of a workflow run again; 403 while it runs."""
    needs_write(repository, user)
    found = _jobs(sandbox.reviews.checks(repository, latest=True), run)
    if any(not check.result for check in found):
        raise HttpError(403, "This workflow is already running")
    for check in found:
        if check.result not in ("success", "neutral", "skipped"):
            sandbox.reviews.rerun(repository, check, user)
    return {}


@router.get("/actions/jobs/{job}/logs")
async def logs(job: int, repository: InRepository, sandbox: SandboxOf) -> Response:
    """Where the log is: in a store on another host, as with GitHub."""
    _check_with_log(sandbox.reviews.checks(repository), job)
    return RedirectResponse(f"{_store_of(sandbox)}/_storage/logs/{job}?sig=sandbox", 302)


@storage.get("/logs/{job}")
async def stored_log(job: int, sig: str, request: Request, sandbox: SandboxOf) -> Response:
    """A log in the store, which refuses a request that is both signed and authenticated, as Azure's does.

    Clients send their token to the host to which they sent it before. So the store refuses the token only if
    its host is not that of the API.
    """
    authenticated = "authorization" in request.headers and _store_of(sandbox) != sandbox.base_url
    if authenticated or sig != "sandbox":
        raise HttpError(400, "Authentication information is not given in the correct format.")
    everything = [one for place in sandbox.store.repositories for one in sandbox.reviews.checks(place)]
    return Response(_check_with_log(everything, job).log, media_type="text/plain")


def _store_of(sandbox: Sandbox) -> str:
    """The store's base URL: another name of this host, if it has one."""
    return sandbox.base_url.replace("//127.0.0.1:", "//localhost:")


def _jobs(checks: list[Check], run: int) -> list[Check]:
    found = [check for check in checks if check.run == run and check.log is not None]
    if not found:
        raise HttpError(404, "Not Found")
    return found


def _check_with_log(checks: list[Check], job: int) -> Check:
    for check in checks:
        if check.id == job and check.log is not None:
            return check
    raise HttpError(404, "Not Found")


def _branch(repository: Repository, sha: str) -> str:
    return next((item.head for item in repository.items if item.tips.head_sha == sha), "")
