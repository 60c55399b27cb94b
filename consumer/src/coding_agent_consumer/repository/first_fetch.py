"""How a new clone gets the branches that an attempt needs, taking from the forge what the mirror lacks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from coding_agent_consumer.repository.git import Git, pack_files

if TYPE_CHECKING:
    from coding_agent_consumer.repository.mirror import Mirror

FETCH = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
_CLONE = ("clone", "--quiet", "--bare", "--no-tags", "--single-branch")


async def first_fetch(
    git: Git, base: str, branch: str, tips: Mapping[str, str], mirror: Mirror | None
) -> None:
    """Make the repository, with `refs/remotes/origin/` for the base branch and an existing work branch.

    Args:
        tips: the commits of these branches on the forge, by full names of references.
        mirror: it gets the base branch's newest commit, unless the work is done on that branch: the branches
            of changes come and go.

    Raises:
        ForgeError: git could not read from the forge. A broken mirror is never the reason.
    """
    await asyncio.to_thread(shutil.rmtree, git.directory, ignore_errors=True)
    copied = await mirror.copied_into(git) if mirror is not None else None
    before = await asyncio.to_thread(pack_files, git)
    if not before:
        await _cloned(git, base)
    elif copied is None or copied.bases.get(base) != tips[f"refs/heads/{base}"]:
        await git.remote(FETCH, _refspec(base))
    else:
        await git.local("update-ref", f"refs/remotes/origin/{base}", copied.bases[base])
    if mirror is not None and copied is not None and base != branch:
        commit = await git.local_id("rev-parse", "--verify", f"refs/remotes/origin/{base}^{{commit}}")
        fetched = [pack for pack in await asyncio.to_thread(pack_files, git) if pack not in before]
        await mirror.update(git, copied, base, commit, fetched)
    if base != branch and f"refs/heads/{branch}" in tips:
        # It is fetched by itself, so that the packs before have only what belongs into the mirror.
        await git.remote(FETCH, _refspec(branch))


def _refspec(branch: str) -> str:
    return f"+refs/heads/{branch}:refs/remotes/origin/{branch}"


async def _cloned(git: Git, base: str) -> None:
    """Clone the base branch. A fetch would walk the whole history once more, to see that it is complete."""
    await asyncio.to_thread(shutil.rmtree, git.directory, ignore_errors=True)
    await git.remote((*_CLONE, "--branch", base), str(git.directory))
    await git.local("update-ref", f"refs/remotes/origin/{base}", f"refs/heads/{base}")
    await git.local("update-ref", "-d", f"refs/heads/{base}")
    await git.local("config", "--remove-section", "remote.origin")  # each fetch and push names the address
