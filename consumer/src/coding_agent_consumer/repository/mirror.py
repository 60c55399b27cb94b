"""A mirror of a repository on its cache volume: packs that an attempt's clone does not have to fetch again.

An attempt also works without the mirror. A clone copies the mirror's packs, so later changes to the mirror do
not affect it. A copy is checked against the hash at its end and the hash in its name. If a pack is damaged or
missing, the clone fetches everything from the forge, and the mirror is deleted. The next attempt that may
write to the volume fills it again.

The packs never change. The manifest names those that count, and the commits that they contain with all of
their history. It is replaced as a whole and after the packs were written, so there is no state in between.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from coding_agent_core.errors import CodingAgentError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coding_agent_consumer.repository.git import Git, packed
from coding_agent_consumer.repository.git_errors import GitFailedError

_logger = logging.getLogger("coding_agent.mirror")
_UPDATE_SECONDS = 300.0
"""One update may take this long. The attempt waits for it; a repository that takes longer has no mirror."""
_MAX_PACKS = 20
"""Each update adds a pack. If there are more than this, they are packed together."""
_HASH = 20
"""Bytes of the hash at the end of a pack, and of its index (gitformat-pack(5))."""
_CHUNK = 1024 * 1024
_MANIFEST = "manifest.json"
_TRIES = 3


class Manifest(BaseModel):
    """What a mirror contains.

    Attributes:
        bases: the newest commits of base branches, by their names.
        packs: the names of packs without suffix, which together have all objects of these commits.
    """

    model_config = ConfigDict(frozen=True)
    bases: Mapping[str, str] = Field(default_factory=dict)
    packs: tuple[str, ...] = ()


class DamagedError(Exception):
    """The mirror cannot be used; the message says why. The clone then does without it."""


@dataclass(frozen=True)
class Mirror:
    """The mirror of one repository.

    Attributes:
        directory: a folder on the cache volume. Only the agents of this repository's attempts reach it, not
            their workspaces. If it cannot be written to, the mirror is only read.
    """

    directory: Path

    @property
    def packs(self) -> Path:
        """The folder of the packs and the manifest."""
        return self.directory / "packs"

    async def copied_into(self, git: Git) -> Manifest:
        """Make a repository from the mirror's packs; return what they contain, nothing if there are none."""
        await git.local("init", "--quiet", "--bare")
        try:
            manifest = await asyncio.to_thread(self.copy_to, git.directory / "objects" / "pack")
            references = "".join(
                f"create refs/mirror/{number} {commit}\n"
                for number, commit in enumerate(manifest.bases.values())
            )
            # The next fetch asks only for what these commits do not have.
            await git.local("update-ref", "--stdin", stdin=references.encode("ascii"))
        except (DamagedError, GitFailedError) as error:
            _logger.warning("The repository's mirror is broken and is not used: %s", error)
            await self.discard()
            await asyncio.to_thread(shutil.rmtree, git.directory, ignore_errors=True)
            return Manifest()
        return manifest

    def copy_to(self, folder: Path) -> Manifest:
        """Copy the packs into a folder, and return what they contain; nothing if there is no mirror yet.

        Raises:
            DamagedError: the mirror cannot be used.
        """
        for left in reversed(range(_TRIES)):
            manifest = self._read()
            try:
                for name in manifest.packs:
                    _copy_pack(self.packs, folder, name)
            except FileNotFoundError as error:
                # Another attempt has just packed the packs together, and there is a new manifest.
                if not left or self._read() == manifest:
                    raise DamagedError(f"{error.filename} is missing") from error
            except OSError as error:
                raise DamagedError(str(error)) from error
            else:
                return manifest
        raise AssertionError

    def _read(self) -> Manifest:
        try:
            return Manifest.model_validate_json((self.packs / _MANIFEST).read_bytes())
        except FileNotFoundError:
            return Manifest()
        except (OSError, ValidationError) as error:
            raise DamagedError(f"the manifest cannot be read: {type(error).__name__}") from error

    async def update(
        self, clone: Git, copied: Manifest, base: str, commit: str, packs: Sequence[Path]
    ) -> None:
        """Add the newest commit of a base branch. Errors are only logged.

        One attempt at a time does this, and others do not wait: the next attempt adds what is missing. The
        kernel releases the lock of an agent that is killed.

        Args:
            copied: what `copy_to` returned. If the mirror has other contents by now, it stays as it is: its
                packs may lack objects that the fetched ones refer to.
            packs: the packs that were fetched, which have what `copied` lacks of the commit.
        """
        if copied.bases.get(base) == commit or not os.access(self.directory, os.W_OK):
            return
        try:
            with self._locked() as locked:
                if locked and self._read() == copied:
                    async with asyncio.timeout(_UPDATE_SECONDS):
                        await self._update(clone, copied, base, commit, packs)
        except (OSError, TimeoutError, CodingAgentError, DamagedError) as error:
            _logger.warning("The repository's mirror was not updated: %s", str(error) or "out of time")

    async def _update(
        self, clone: Git, copied: Manifest, base: str, commit: str, packs: Sequence[Path]
    ) -> None:
        bases = {**copied.bases, base: commit}
        names = [*copied.packs, *(pack.stem for pack in packs)]
        if len(names) > _MAX_PACKS:
            packs = [await packed(clone, list(bases.values()), clone.directory.parent / "mirrored")]
            names = [pack.stem for pack in packs]
        manifest = Manifest(bases=bases, packs=tuple(names))
        await asyncio.to_thread(self._write, manifest, packs)

    def _write(self, manifest: Manifest, packs: Sequence[Path]) -> None:
        self._remove_remains()
        self.packs.mkdir(mode=0o700, exist_ok=True)
        for pack in packs:
            _copy_pack(pack.parent, self.packs, pack.stem)
        new = self.packs / f"{_MANIFEST}.new"
        new.write_text(manifest.model_dump_json(), encoding="utf-8")
        new.replace(self.packs / _MANIFEST)
        for file in self.packs.glob("pack-*"):
            if file.stem not in manifest.packs:
                file.unlink()

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
        # Rename it first, so that nobody copies half a mirror.
        with suppress(FileNotFoundError):
            self.packs.rename(self.directory / f"deleted-{uuid4()}")
        self._remove_remains()

    def _remove_remains(self) -> None:
        """Remove what a killed agent left."""
        for folder in self.directory.glob("deleted-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self.packs.glob("*.new"):
            file.unlink(missing_ok=True)


def _copy_pack(source: Path, target: Path, name: str) -> None:
    """Copy a pack and then its index, without which git does not see the pack.

    Raises:
        OSError: a file is missing or damaged.
    """
    identity = name.removeprefix("pack-")
    if _copy(source / f"{name}.pack", target / f"{name}.pack") != identity:
        raise OSError(f"{name}.pack is not the pack of this name")
    _copy(source / f"{name}.idx", target / f"{name}.idx")


def _copy(source: Path, target: Path) -> str:
    """Copy a file that ends with the SHA-1 of what is before, and return that hash.

    Raises:
        OSError: the file is missing or damaged.
    """
    hashed, end = hashlib.sha1(usedforsecurity=False), b""
    new = target.with_name(f"{target.name}.new")
    with source.open("rb") as reading, new.open("wb") as writing:
        while data := reading.read(_CHUNK):
            writing.write(data)
            data = end + data
            hashed.update(data[:-_HASH])
            end = data[-_HASH:]
    if hashed.digest() != end:
        new.unlink()
        raise OSError(f"{source.name} is damaged")
    new.replace(target)
    return end.hex()
