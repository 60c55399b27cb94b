"""A mirror of a repository on its cache volume: objects that an attempt's clone does not have to fetch again.

An attempt also works without the mirror. A clone borrows the mirror's objects only until it has packed its
own, so later changes to the mirror do not affect the clone. If borrowing fails, the clone fetches everything
from the forge, and the mirror is deleted. The next attempt that may write to the volume fills it again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from coding_agent_core.errors import CodingAgentError, ForgeError

from coding_agent_consumer.repository.git import Git, GitFailedError

_logger = logging.getLogger("coding_agent.mirror")
FETCH = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
_UPDATE_SECONDS = 300.0
"""One update may take this long. The attempt waits for it; a repository that takes longer has no mirror."""
_MAX_PACKS = 20
"""Each update adds a pack. If there are more than this, they are packed together."""
_PACK = ("repack", "-a", "-d", "--quiet", "--window=0")
"""Make one pack and keep the existing deltas: finding better ones would take longer than a fetch."""


@dataclass(frozen=True)
class Mirror:
    """The mirror of one repository.

    Attributes:
        directory: a folder on the cache volume. Only the agents of this repository's attempts reach it, not
            their workspaces. If it cannot be written to, the mirror is only read.
    """

    directory: Path

    @property
    def repository(self) -> Path:
        return self.directory / "repository.git"

    def objects(self) -> Path | None:
        """Return the folder to borrow objects from; `None` if there is no mirror yet."""
        objects = self.repository / "objects"
        return objects if (self.repository / "HEAD").is_file() and objects.is_dir() else None

    async def update(self, clone: Git, base: str) -> None:
        """Copy the newest commit of a base branch from a clone. Errors are only logged.

        One attempt at a time does this, and others do not wait: the next attempt adds what is missing. The
        kernel releases the lock of an agent that is killed.
        """
        if not os.access(self.directory, os.W_OK):
            return
        try:
            with self._locked() as locked:
                if locked:
                    async with asyncio.timeout(_UPDATE_SECONDS):
                        await self._update(clone, base)
        except (OSError, TimeoutError) as error:
            _logger.warning("The repository's mirror was not updated: %s", str(error) or "out of time")

    async def _update(self, clone: Git, base: str) -> None:
        await asyncio.to_thread(self._remove_remains)
        git = Git(self.repository, clone.credentials)
        reference = f"refs/base/{sha256(base.encode()).hexdigest()[:16]}"
        try:
            await git.local("init", "--quiet", "--bare")
            known = await git.local("for-each-ref", "--format=%(objectname)", reference)
            wanted = await clone.local_id("rev-parse", "--verify", f"refs/remotes/origin/{base}")
            if known.decode("ascii").strip() == wanted:
                return
            await git.local(
                *("-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-tags", str(clone.directory)),
                f"+refs/remotes/origin/{base}:{reference}",
                # The source is a folder of this pod, and git's environment allows only HTTP.
                env={"GIT_ALLOW_PROTOCOL": "file"},
            )
            packs = await asyncio.to_thread(lambda: list(self.repository.glob("objects/pack/*.pack")))
            if len(packs) > _MAX_PACKS:
                await git.local(*_PACK)
        except CodingAgentError as error:
            _logger.warning("The repository's mirror cannot be updated and is deleted: %s", error)
            await asyncio.to_thread(self._delete)

    async def discard(self) -> None:
        """Delete the mirror, unless another attempt is updating it. Errors are only logged."""
        if not os.access(self.directory, os.W_OK):
            return
        try:
            with self._locked() as locked:
                if locked:
                    await asyncio.to_thread(self._delete)
        except OSError as error:
            _logger.warning("The repository's mirror was not deleted: %s", error)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Try to lock the mirror while the context is open. The context's value is whether that succeeded."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _delete(self) -> None:
        # Rename it first, so that nobody borrows from half a mirror.
        with suppress(FileNotFoundError):
            self.repository.rename(self.directory / f"deleted-{uuid4()}")
        self._remove_remains()

    def _remove_remains(self) -> None:
        """Remove what a killed agent left: a half-deleted mirror, half a pack, or git's own locks."""
        for folder in self.directory.glob("deleted-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in ("objects/pack/tmp_*", "*.lock", "refs/**/*.lock", "objects/**/*.lock"):
            for file in self.repository.glob(pattern):
                file.unlink(missing_ok=True)


async def fetch(git: Git, refspecs: Sequence[str], mirror: Mirror | None) -> None:
    """Fetch references into a new clone, taking from the forge only what the mirror does not have.

    Raises:
        ForgeError: git could not read from the forge. A broken mirror is never the reason.
    """
    objects = mirror.objects() if mirror is not None else None
    if mirror is None or objects is None:
        await git.remote(FETCH, *refspecs)
        return
    alternates = git.directory / "objects" / "info" / "alternates"
    try:
        alternates.write_text(f"{objects}\n")
        await git.remote(FETCH, *refspecs)
        await git.local(*_PACK)  # git reads and checks all that the clone needs, including borrowed objects
        alternates.unlink()
    except (ForgeError, GitFailedError, OSError) as error:
        await asyncio.to_thread(shutil.rmtree, git.directory)
        await git.local("init", "--quiet", "--bare")
        await git.remote(FETCH, *refspecs)
        # It worked without the mirror, so the forge was not the reason.
        _logger.warning("The repository's mirror is broken and is not used: %s", error)
        await mirror.discard()
