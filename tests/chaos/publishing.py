"""Keeps judged runs in docs/reliability-runs, an archive for each commit, and lists them on the page.

    publish(Path("out"), ROOT / "docs")
    for folder in unpack(ROOT / "docs" / RUNS / "7b974dd5a8f2.tar.xz", Path("kept")): judge_folder(folder)

An archive has the folders of a commit's runs with their raw histories, so that anybody can judge them again.
`SHA256SUMS` has the check sums of the archives, and docs/reliability.md the table of the runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tests.chaos.judging import HISTORY, RUN, VERDICT, read_setup
from tests.chaos.report import NO_VIOLATION

PAGE, RUNS, SUMS, SUFFIX = "reliability.md", "reliability-runs", "SHA256SUMS", ".tar.xz"
_TABLE = re.compile(r"(<!-- runs -->\n).*?(<!-- end -->)", re.DOTALL)
_NONE = "No run has been published yet."
_HEAD = ("run", "commit", "mode", "forge", "seed", "faults", "expected", "observed", "unknown", "outcome")


@dataclass(frozen=True)
class Kept:
    """A run in an archive.

    Attributes:
        setup: the data of its `run.json`.
        verdict: the data of its `verdict.json`.
    """

    archive: str
    name: str
    setup: Mapping[str, Any]
    verdict: Mapping[str, Any]

    @property
    def commit(self) -> str:
        return str(self.setup["description"]["commit"])

    @property
    def row(self) -> str:
        started, ended = (datetime.fromisoformat(self.setup[name]) for name in ("started", "ended"))
        cells = (
            f"{started:%Y-%m-%d %H:%M}, {(ended - started).total_seconds() / 60:.0f} min",
            f"[`{self.commit}`]({RUNS}/{self.archive})",
            *(str(self.setup[name]) for name in ("mode", "forge", "seed")),
            str(self.verdict["faults"]),
            *(str(self.verdict["figures"][name]) for name in ("expected", "observed", "unknown")),
            str(self.verdict["outcome"]),
        )
        return "| " + " | ".join(cells) + " |"


def publish(folder: Path, docs: Path) -> Path:
    """Keep a judged run, whatever its outcome, and write the table anew; the archive that keeps it.

    Raises:
        OSError: the run has not been judged, or the page is not there.
        FileExistsError: the run is there already.
    """
    setup = read_setup(folder)
    name = f"{setup.started:%Y-%m-%d-%H%M}-{setup.mode}-{setup.forge}-{setup.seed}-{setup.faults}-faults"
    files = [
        folder / HISTORY,
        folder / RUN,
        folder / VERDICT,
        folder / "report.md",
        *sorted(folder.glob("item-*.svg")),
    ]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}: judge it first")
    if name in {run.name for run in kept_runs(docs)}:
        raise FileExistsError(f"{name} is published already")
    archive = docs / RUNS / f"{setup.description.get('commit', 'unknown')}{SUFFIX}"
    entries = {f"{name}/{file.name}": file.read_bytes() for file in files}
    write_archive(archive, {**(_entries(archive) if archive.exists() else {}), **entries})
    (docs / RUNS / SUMS).write_text(check_sums(docs), encoding="utf-8")
    page = docs / PAGE
    page.write_text(with_table(page.read_text(encoding="utf-8"), docs), encoding="utf-8")
    return archive


def write_archive(archive: Path, entries: Mapping[str, bytes]) -> None:
    """Write an archive; the same entries always give the same bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name in sorted(entries):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(entries[name]), 0o644
            tar.addfile(info, io.BytesIO(entries[name]))


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Write an archive's runs to a folder; their folders, the newest first."""
    entries = _entries(archive)
    for name, data in entries.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive}: {name} is outside")
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return [folder / name for name in sorted({name.split("/")[0] for name in entries}, reverse=True)]


def check_sums(docs: Path) -> str:
    """The check sums of all archives, as `sha256sum` writes them."""
    sums = ((hashlib.sha256(file.read_bytes()).hexdigest(), file.name) for file in _archives(docs))
    return "".join(f"{digest}  {name}\n" for digest, name in sums)


def kept_runs(docs: Path) -> list[Kept]:
    """All kept runs, the newest first."""
    found = [
        Kept(
            archive.name, name, json.loads(entries[f"{name}/{RUN}"]), json.loads(entries[f"{name}/{VERDICT}"])
        )
        for archive in _archives(docs)
        for entries in [_entries(archive)]
        for name in {path.split("/")[0] for path in entries}
    ]
    return sorted(found, key=lambda run: run.name, reverse=True)


def with_table(text: str, docs: Path) -> str:
    """The page's text with the runs between `<!-- runs -->` and `<!-- end -->`, the newest commit's first.

    Of the runs of earlier commits, the page lists those with violations and counts the others: the archives
    have all of them.

    Raises:
        ValueError: the page has no such place.
    """
    if not _TABLE.search(text):
        raise ValueError(f"{PAGE} has no <!-- runs --> … <!-- end -->")
    runs = kept_runs(docs)
    newest = [run for run in runs if run.commit == runs[0].commit]
    parts = [_table(newest)] if runs else [_NONE]
    earlier = [run for run in runs if run not in newest]
    violated = [run for run in earlier if run.verdict["outcome"] != NO_VIOLATION]
    if earlier:
        clean = len(earlier) - len(violated)
        parts.append(
            f"Runs of earlier commits without a violation: {clean}. With violations: {len(violated)}."
        )
    if violated:
        parts.append(_table(violated))
    table = "\n\n".join(parts)
    return _TABLE.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def _table(runs: Iterable[Kept]) -> str:
    return "\n".join(["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD), *(run.row for run in runs)])


def _archives(docs: Path) -> Iterator[Path]:
    return iter(sorted((docs / RUNS).glob(f"*{SUFFIX}")))


def _entries(archive: Path) -> dict[str, bytes]:
    """An archive's files by their names."""
    with tarfile.open(archive, "r:xz") as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        return {name: file.read() for name, file in files if file is not None}
