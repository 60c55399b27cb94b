"""What a tier of tests uses of npm, downloaded into the caches: `python -m tests.packages test|sweep`.

Before the tests rather than by the first one that needs it: each test has a time limit.
"""

import sys

from coding_agent_demo.programs import PACKAGES, program_folder

from tests.fixtures import github_graphql, github_openapi, github_webhook_schema, gitlab_client_go, octokit


def provide(tier: str) -> None:
    """Download what the caches lack."""
    for package in (github_graphql, github_openapi, github_webhook_schema, octokit, gitlab_client_go):
        package.folder()
    github_webhook_schema.official_folder()
    octokit.answers_folder()
    if tier == "sweep":
        for runner in PACKAGES:
            program_folder(runner)


if __name__ == "__main__":
    provide(sys.argv[1])
