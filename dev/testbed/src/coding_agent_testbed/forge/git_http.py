"""git's smart HTTP protocol, by `git http-backend` as a CGI program: what clones and pushes for real.

https://git-scm.com/docs/git-http-backend
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import Request
from starlette.responses import PlainTextResponse, Response

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.apps import includes
from coding_agent_testbed.forge.eventlog import pushed_refs
from coding_agent_testbed.forge.identity import authenticate, token_of
from coding_agent_testbed.forge.model import Flavour, Repository, Role, User
from coding_agent_testbed.forge.sandbox import Sandbox

_ROUTE = re.compile(r"/(?P<name>.+?)(?:\.git)?/(?P<service>info/refs|git-upload-pack|git-receive-pack)")
BACKEND_TIMEOUT = 300.0
"""Seconds for one fetch or push; a benchmark clones a gigabyte."""
MAX_PUSH = 100_000_000
"""Bytes of a pushed pack: a sandbox holds it in memory."""


def matches(path: str) -> re.Match[str] | None:
    """Whether a path is one of git's."""
    return _ROUTE.fullmatch(path)


async def serve(request: Request, sandbox: Sandbox) -> Response:
    """Answer one request of a git client."""
    found = matches(request.url.path)
    assert found is not None
    service = found["service"]
    if service == "info/refs" and request.query_params.get("service") not in (
        "git-upload-pack",
        "git-receive-pack",
    ):
        return PlainTextResponse("Please upgrade your git client: only smart HTTP is served.", 403)
    pushing = "git-receive-pack" in (service, request.query_params.get("service"))
    repository = sandbox.store.repository(found["name"])
    if repository is None and (moved := sandbox.store.by_old_name(found["name"])) is not None:
        # GitLab serves a project at its old path too. GitHub and Gitea redirect; git follows a redirect for
        # the first request of a run, and sends the others to where that one led.
        if sandbox.store.flavour is Flavour.GITHUB:
            target = f"{sandbox.base_url}/{moved.full_name}.git/{service}?{request.url.query}"
            return PlainTextResponse("", 301, {"location": target})
        repository = moved
    user = authenticate(request.headers, sandbox.store.accounts(), sandbox.clock())
    refusal = _refusal(request, repository, user, pushing)
    if refusal is not None:
        return refusal
    assert repository is not None
    body = await request.body()
    if len(body) > MAX_PUSH:
        return PlainTextResponse("Too large for a sandbox.", 413)
    protection = _protection(repository, user, sandbox.store.flavour)
    response = await _backend(request, repository.path, service, body, user, protection)
    sandbox.git_bytes += len(response.body)
    if service == "git-receive-pack" and user is not None:
        for branch, before, after in pushed_refs(body, bytes(response.body)):
            forced = await asyncio.to_thread(_forced, repository.path, before, after)
            sandbox.store.pushed(repository, user, branch, before, after, forced=forced)
        await sandbox.after_push(repository, user)
    return response


def _forced(repository: Path, before: str, after: str) -> bool:
    """Whether a push left commits of a branch behind; a branch that it made or deleted does not count."""
    there = before.strip("0") and after.strip("0")
    return bool(there) and not git.is_ancestor(repository, before, after)


def _refusal(
    request: Request, repository: Repository | None, user: User | None, pushing: bool
) -> Response | None:
    if user is None and (token_of(request.headers) or pushing or repository is None or repository.private):
        challenge = {"www-authenticate": 'Basic realm="Sandbox"'}
        return PlainTextResponse("Authentication is required.", 401, challenge)
    role = repository.role(user) if repository and user else None
    if repository is None or (user is not None and role is None):
        return PlainTextResponse("Repository not found.", 404)
    grant, level = user.grant if user else None, "write" if pushing else "read"
    granted = grant is None or includes(grant.permissions, "contents", level)
    if not granted and not pushing:
        return PlainTextResponse("Repository not found.", 404)
    if pushing and (role is None or not role.may_write or not granted):
        return PlainTextResponse(f"Write access to {repository.full_name} not granted.", 403)
    if pushing and repository.archived:
        return PlainTextResponse(f"{repository.full_name} is archived and read-only.", 403)
    return None


_REFUSALS = {
    Flavour.GITHUB: "error: GH006: Protected branch update failed for REF.",
    Flavour.GITLAB: "GitLab: You are not allowed to push code to protected branches on this project.",
}
"""What the vendors say to a push to a protected branch. git itself says `pre-receive hook declined`, as on
GitLab; GitHub's own server says `protected branch hook declined`."""


def _protection(repository: Repository, user: User | None, flavour: Flavour) -> dict[str, str]:
    """Variables of the hook that refuses pushes. Admins may push, as by default on both forges."""
    admin = user is not None and repository.role(user) is Role.ADMIN
    patterns = [] if admin else sorted(repository.protected)
    return {"FORGE_PROTECTED": " ".join(patterns), "FORGE_REFUSAL": _REFUSALS[flavour]}


async def _backend(
    request: Request,
    repository: Path,
    service: str,
    body: bytes,
    user: User | None,
    protection: dict[str, str],
) -> Response:
    environment = git.environment() | {
        "GIT_PROJECT_ROOT": str(repository.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repository.name}/{service}",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.url.query,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
        "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        **protection,
    }
    if user is not None:
        environment["REMOTE_USER"] = user.login
    process = await asyncio.create_subprocess_exec(
        "git",
        "http-backend",
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(BACKEND_TIMEOUT):
            output, _ = await process.communicate(body)
    except TimeoutError:
        process.kill()
        await process.wait()
        return PlainTextResponse("git took too long.", 504)
    return _from_cgi(output)


def _from_cgi(output: bytes) -> Response:
    head, separator, body = output.partition(b"\r\n\r\n")
    if not separator:
        return PlainTextResponse("git http-backend failed.", 500)
    status = 200
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        else:
            headers[name.lower()] = value.strip()
    return Response(body, status, headers)
