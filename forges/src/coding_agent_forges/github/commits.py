"""Makes commits through GitHub's GraphQL API, which GitHub signs like commits from its web pages."""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coding_agent_core.errors import ForgeError
from pydantic import AliasPath, Field

from coding_agent_forges.github.discussion import GraphqlError, graphql_error, graphql_url
from coding_agent_forges.rest.calls import Call, Repeat, ResponseModel, path
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.signed_commits import FileChanges

_logger = logging.getLogger("coding_agent.forge")
_COMMIT = """
mutation($input: CreateCommitOnBranchInput!) {
  createCommitOnBranch(input: $input) { commit { oid signature { isValid } } }
}
"""


class _Commit(ResponseModel):
    oid: str
    verified: bool = Field(default=False, validation_alias=AliasPath("signature", "isValid"))


class _MutationResponse(ResponseModel):
    commit: _Commit | None = Field(
        default=None, validation_alias=AliasPath("data", "createCommitOnBranch", "commit")
    )
    errors: tuple[GraphqlError, ...] = ()


@dataclass(frozen=True)
class GitHubCommits:
    """Signed commits in one repository, by a mutation (https://docs.github.com/graphql/reference/mutations).

    Attributes:
        repository: the repository's full path.
        current_path: returns a repository's present path, because the mutation may not find an old name.
    """

    client: ForgeClient
    repository: str
    current_path: Callable[[str], Awaitable[str]]

    async def create_branch(self, branch: str, commit: str) -> None:
        """Create a branch at a commit, because the mutation only appends to existing branches."""
        where = path("repos", *self.repository.split("/", 1), "git", "refs")
        what = f"creating the branch {branch} of {self.repository}"
        body = {"ref": f"refs/heads/{branch}", "sha": commit}
        try:
            await self.client.send(Call("POST", where, what, json=body))
        except ForgeError as error:
            # An earlier request whose answer was lost may have made the branch.
            if error.status != 422 or "reference already exists" not in str(error).lower():
                raise

    async def append(self, branch: str, expected: str, message: str, changes: FileChanges) -> None:
        """Make a commit. GitHub Enterprise Server signs it only if its administrator has set this up."""
        headline, _, body = message.strip().partition("\n")
        asked = {
            "branch": {
                "repositoryNameWithOwner": await self.current_path(self.repository),
                "branchName": branch,
            },
            "expectedHeadOid": expected,
            "message": {"headline": headline, "body": body.strip()},
            "fileChanges": {
                "additions": [
                    {"path": name, "contents": base64.b64encode(content).decode("ascii")}
                    for name, content in changes.additions.items()
                ],
                "deletions": [{"path": name} for name in changes.deletions],
            },
        }
        what = f"making a commit on the branch {branch} of {self.repository}"
        call = Call(
            "POST",
            graphql_url(self.client.api_url),
            what,
            json={"query": _COMMIT, "variables": {"input": asked}},
            repeat=Repeat.UNLESS_PROCESSED,
            repository=self.repository,
        )
        answer = await self.client.get(_MutationResponse, call)
        if answer.commit is None:
            raise graphql_error(answer.errors, f"{self.client.host} refused {what}")
        if not answer.commit.verified:
            _logger.warning(
                "%s made the commit %s without a signature: an administrator of GitHub Enterprise Server "
                "has to set up the signing of web commits",
                self.client.host,
                answer.commit.oid,
            )
