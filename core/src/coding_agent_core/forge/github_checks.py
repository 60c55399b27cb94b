"""Which checks of a pull request's newest commit failed on GitHub, and the ends of their logs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.client import Call, ForgeClient, ResponseModel, path
from coding_agent_core.forge.discussion import CHECKS_LIMIT, LOG_BYTES, Checks, FailedCheck, log_text
from coding_agent_core.forge.rest import Text
from coding_agent_core.tasks import Item

_logger = logging.getLogger("coding_agent.forge")
_PAGES = 2
_FAILED = ("failure", "timed_out", "startup_failure", "error")


class _CheckApp(ResponseModel):
    slug: str | None = None


class _Output(ResponseModel):
    title: Text = ""
    summary: Text = ""
    text: Text = ""


class _CheckRun(ResponseModel):
    id: int
    name: str
    conclusion: str | None = None
    html_url: Text = ""
    output: _Output = _Output()
    app: _CheckApp | None = None


class _CheckRuns(ResponseModel):
    check_runs: list[_CheckRun]


class _Run(ResponseModel):
    id: int
    name: Text = ""
    conclusion: str | None = None


class _Runs(ResponseModel):
    workflow_runs: list[_Run]


class _WorkflowJob(ResponseModel):
    id: int
    name: str
    conclusion: str | None = None
    html_url: Text = ""


class _Jobs(ResponseModel):
    jobs: list[_WorkflowJob]


class _Status(ResponseModel):
    context: str
    state: str
    description: Text = ""
    target_url: Text = ""


class _Statuses(ResponseModel):
    statuses: list[_Status]


@dataclass(frozen=True)
class GitHubChecks:
    """Reads the checks of one pull request."""

    client: ForgeClient
    item: Item

    async def failed(self, sha: str) -> Checks:
        """Failed check runs and commit statuses of a commit.

        Fine-grained tokens cannot have the permission *Checks*. For these the jobs of GitHub Actions are read
        instead, for which *Actions*, read, is enough.
        """
        failed: list[FailedCheck] = []
        unreadable: list[str] = []
        try:
            failed += await self._check_runs(sha)
        except ForgeError as error:
            unreadable.append(f"the check runs ({error.status or 'no answer'})")
            try:
                failed += await self._jobs(sha)
            except ForgeError as also:
                unreadable.append(f"the jobs of GitHub Actions ({also.status or 'no answer'})")
        try:
            failed += await self._statuses(sha)
        except ForgeError as error:
            unreadable.append(f"the commit statuses ({error.status or 'no answer'})")
        return Checks(tuple(failed[:CHECKS_LIMIT]), tuple(unreadable))

    async def _check_runs(self, sha: str) -> list[FailedCheck]:
        failed: list[_CheckRun] = []
        call = Call(
            "GET", self._path("commits", sha, "check-runs"), f"reading the checks of {self.item.display}"
        )
        async for page, _ in self.client.pages(_CheckRuns, call, limit=_PAGES):
            failed += [run for run in page.check_runs if run.conclusion in _FAILED]
        return [
            FailedCheck(
                name=run.name,
                result=run.conclusion or "",
                url=run.html_url,
                summary=_joined(run.output.title, run.output.summary, run.output.text),
                # A job of GitHub Actions has the id of its check run.
                log=await self._log(run.id) if run.app and run.app.slug == "github-actions" else "",
            )
            for run in failed[:CHECKS_LIMIT]
        ]

    async def _jobs(self, sha: str) -> list[FailedCheck]:
        found: list[FailedCheck] = []
        call = Call(
            "GET",
            self._path("actions", "runs"),
            f"reading the workflow runs of {self.item.display}",
            {"head_sha": sha},
        )
        async for page, _ in self.client.pages(_Runs, call, limit=1):
            for run in [run for run in page.workflow_runs if run.conclusion in _FAILED][:CHECKS_LIMIT]:
                found += await self._jobs_of(run)
        return found

    async def _jobs_of(self, run: _Run) -> list[FailedCheck]:
        what = f"reading the jobs of {self.item.display}"
        call = Call("GET", self._path("actions", "runs", run.id, "jobs"), what, {"filter": "latest"})
        jobs: list[_WorkflowJob] = []
        async for page, _ in self.client.pages(_Jobs, call, limit=1):
            jobs += [job for job in page.jobs if job.conclusion in _FAILED]
        return [
            FailedCheck(
                name=" / ".join(filter(None, (run.name, job.name))),
                result=job.conclusion or "",
                url=job.html_url,
                log=await self._log(job.id),
            )
            for job in jobs[:CHECKS_LIMIT]
        ]

    async def _log(self, job: int) -> str:
        what = f"reading the log of a check of {self.item.display}"
        call = Call("GET", self._path("actions", "jobs", job, "logs"), what)
        try:
            return log_text(await self.client.end_of(call, LOG_BYTES))
        except ForgeError as error:  # logs expire, and need a permission of their own
            _logger.info("%s", error)
            return ""

    async def _statuses(self, sha: str) -> list[FailedCheck]:
        found: list[FailedCheck] = []
        call = Call(
            "GET",
            self._path("commits", sha, "status"),
            f"reading the commit statuses of {self.item.display}",
        )
        async for page, _ in self.client.pages(_Statuses, call, limit=_PAGES):
            found += [
                FailedCheck(status.context, status.state, status.target_url, status.description)
                for status in page.statuses
                if status.state in _FAILED
            ]
        return found

    def _path(self, *rest: str | int) -> str:
        return path("repos", *self.item.repository.split("/", 1), *rest)


def _joined(*texts: str) -> str:
    return "\n\n".join(text.strip() for text in texts if text.strip())
