"""Check runs, workflow runs with their jobs and logs, and commit statuses."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from coding_agent_forge.errors import Refused
from coding_agent_forge.github.access import InRepository, SandboxOf, paged
from coding_agent_forge.github.routes_reviews import RenderReviews
from coding_agent_forge.model import Repository
from coding_agent_forge.reviews import Check

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
) -> dict[str, Any]:
    """Check runs of a commit."""
    found = [check for check in sandbox.reviews.checks(repository, sha) if check.log is not None]
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
    found = [check for check in sandbox.reviews.checks(repository, sha) if check.log is None]
    url = f"{render.repository_url(repository)}/commits/{sha}"
    failed = any(check.result in ("failure", "error") for check in found)
    return {
        "state": "failure" if failed else "success" if found else "pending",
        "statuses": [render.status(repository, check) for check in paged(found, request, response)],
        "sha": sha,
        "total_count": len(found),
        "repository": render.repository(repository, sandbox.store.users),
        "commit_url": url,
        "url": f"{url}/status",
    }


@router.get("/actions/runs")
async def workflow_runs(
    request: Request, response: Response, repository: InRepository, render: RenderReviews, sandbox: SandboxOf
) -> dict[str, Any]:
    """Workflow runs, of one commit with `head_sha`."""
    runs: dict[int, list[Check]] = {}
    for check in sandbox.reviews.checks(repository, request.query_params.get("head_sha")):
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
    """Jobs of a workflow run."""
    found = [one for one in sandbox.reviews.checks(repository) if one.run == run and one.log is not None]
    if not found:
        raise Refused(404, "Not Found")
    shown = [
        render.job(repository, check, _branch(repository, check.sha))
        for check in paged(found, request, response)
    ]
    return {"total_count": len(found), "jobs": shown}


@router.get("/actions/jobs/{job}/logs")
async def logs(job: int, repository: InRepository, sandbox: SandboxOf) -> Response:
    """Where the log is: in a store on another host, as with GitHub."""
    _check_with_log(sandbox.reviews.checks(repository), job)
    elsewhere = sandbox.base_url.replace("//127.0.0.1:", "//localhost:")
    return RedirectResponse(f"{elsewhere}/_storage/logs/{job}?sig=sandbox", 302)


@storage.get("/logs/{job}")
async def stored_log(job: int, sig: str, request: Request, sandbox: SandboxOf) -> Response:
    """A log in the store, which refuses a request that is both signed and authenticated, as Azure's does."""
    if "authorization" in request.headers or sig != "sandbox":
        raise Refused(400, "Authentication information is not given in the correct format.")
    everything = [one for place in sandbox.store.repositories for one in sandbox.reviews.checks(place)]
    return Response(_check_with_log(everything, job).log, media_type="text/plain")


def _check_with_log(checks: list[Check], job: int) -> Check:
    for check in checks:
        if check.id == job and check.log is not None:
            return check
    raise Refused(404, "Not Found")


def _branch(repository: Repository, sha: str) -> str:
    return next((item.head for item in repository.items if item.tips.head_sha == sha), "")
