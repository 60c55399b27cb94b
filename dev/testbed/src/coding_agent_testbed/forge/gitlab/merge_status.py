"""Whether a merge request can be merged, in GitLab's words.

https://docs.gitlab.com/api/merge_requests/#merge-status
"""

from __future__ import annotations

from dataclasses import dataclass

from coding_agent_testbed.forge.model import Item, Repository
from coding_agent_testbed.forge.reviews import status_of
from coding_agent_testbed.forge.sandbox import Sandbox


@dataclass(frozen=True)
class MergeStatus:
    """What a merge request shows besides its own fields.

    Attributes:
        status, detailed: `merge_status` and `detailed_merge_status`.
        thread_notes: how many comments its threads have.
    """

    status: str = "can_be_merged"
    detailed: str = "mergeable"
    conflicts: bool = False
    discussions_resolved: bool = True
    thread_notes: int = 0


def merge_status(sandbox: Sandbox, repository: Repository, item: Item, *, counts: bool) -> MergeStatus:
    """What git, reviews and pipelines say of a merge request; the first obstacle is the one that is named.

    `counts`: somebody reads it alone, which lets GitLab find out whether it can be merged.
    """
    threads = sandbox.reviews.threads(item)
    resolved = all(thread.resolved_by is not None for thread in threads)
    merges = sandbox.mergeable(repository, item, counts=counts)
    pipeline = status_of(sandbox.reviews.checks(repository, item.tips.head_sha, latest=True))
    verdicts = {sandbox.reviews.verdict(item, reviewer) for reviewer in item.reviewers}
    needs_pipeline = "ci" in repository.merge_needs
    obstacles = {
        "not_open": not item.open,
        "checking" if counts else "unchecked": merges is None,
        "draft_status": item.draft,
        "requested_changes": "CHANGES_REQUESTED" in verdicts,
        "discussions_not_resolved": not resolved and "discussions" in repository.merge_needs,
        "conflict": merges is False,
        "ci_still_running": needs_pipeline and pipeline in ("running", "pending"),
        "ci_must_pass": needs_pipeline and pipeline != "success",
    }
    return MergeStatus(
        status={True: "can_be_merged", False: "cannot_be_merged", None: "checking"}[merges],
        detailed=next((name for name, there in obstacles.items() if there), "mergeable"),
        conflicts=merges is False,
        discussions_resolved=resolved,
        thread_notes=sum(len(thread.comments) for thread in threads),
    )
