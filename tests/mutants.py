"""Plants defects in the product, one at a time, and says which of them the tests see.

A test suite that became smaller must still see each of them. `make mutants` plants one, runs the unit tests
of the part and, if they pass, its integration tests. It changes files, so use a clean checkout of its own.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 900
"""For the tests of one defect. Some defects make a program wait for ever, which counts as seen."""


@dataclass(frozen=True)
class Defect:
    """Code of a file that is there exactly once, and what replaces it."""

    file: str
    code: str
    defect: str

    def fits(self, root: Path = ROOT) -> bool:
        """Whether the code is there exactly once in the tree below `root`."""
        return (root / self.file).read_text().count(self.code) == 1

    def plant(self, root: Path = ROOT) -> None:
        """Replace the code in the tree below `root`."""
        file = root / self.file
        file.write_text(file.read_text().replace(self.code, self.defect))


@dataclass(frozen=True)
class Mutant(Defect):
    """A defect that the tests should see.

    Attributes:
        tests: folders below `tests`, in the order in which they run.
    """

    tests: list[str]


TESTS = {
    "attempt": ("unit/consumer", "integration/consumer_attempt"),
    "forge": ("unit/forges", "integration/forges"),
    "gateway": ("unit/consumer_gateway", "integration/consumer_gateway"),
    "kubernetes": (
        "unit/core_task",
        "unit/core_kubernetes",
        "unit/core_runtime",
        "integration/core_kubernetes",
    ),
    "operator": ("unit/operator", "integration/operator"),
    "queue": ("unit/consumer", "unit/core_queues", "integration/core_queues", "integration/issue_commands"),
    "reporter": ("unit/operator_reporter", "integration/operator_reporter"),
    "rounds": (
        "unit/core_rounds",
        "unit/core_task",
        "unit/consumer_rounds",
        "unit/operator_reporter",
        "integration/queue_rounds",
    ),
    "tokens": ("integration/tokens",),
    "verification": (
        "unit/core_task",
        "unit/consumer",
        "unit/operator",
        "integration/consumer_attempt",
        "integration/operator",
    ),
    "webhook": ("unit/receiver", "integration/receiver"),
    "workspace": ("unit/consumer_workspace", "integration/consumer_workspace"),
}
"""The folders of tests of each part, in the order in which they run."""


def mutants() -> list[Mutant]:
    """The rows of `mutants.tsv`: file, code, defect, and the parts whose tests should see it."""
    rows = [line.split("\t") for line in (ROOT / "tests/mutants.tsv").read_text().splitlines()]
    return [
        Mutant(file, code, defect, [folder for part in parts.split(",") for folder in TESTS[part]])
        for file, code, defect, parts in rows
    ]


def main() -> int:
    """Plant each defect, or those of files whose path has an argument in it; 1 if the tests miss one."""
    if _git("status", "--porcelain"):
        sys.exit("This changes files: run it in a checkout without changes of your own.")
    chosen = [mutant for mutant in mutants() if any(text in mutant.file for text in sys.argv[1:] or [""])]
    stale = [mutant for mutant in chosen if not mutant.fits()]
    for mutant in stale:
        print(f"not there exactly once: {mutant.file}: {mutant.code}")
    unseen = 0
    for mutant in chosen:
        if mutant not in stale:
            began = time.monotonic()
            seen_by = _seen_by(mutant)
            unseen += seen_by is None
            print(
                f"{'seen  ' if seen_by else 'UNSEEN'} {time.monotonic() - began:4.0f} s  {mutant.file}: "
                f"{mutant.code} -> {mutant.defect or '(nothing)'}  {seen_by or ''}",
                flush=True,
            )
    print(f"{len(chosen) - len(stale) - unseen} seen, {unseen} not seen, {len(stale)} not planted")
    return 1 if unseen or stale else 0


def _seen_by(mutant: Mutant) -> str | None:
    """The test that is red; `None` if none is."""
    file = ROOT / mutant.file
    original = file.read_text()
    mutant.plant()
    try:
        for folder in mutant.tests:
            red = _red(folder)
            if red is not None:
                return red
        return None
    finally:
        file.write_text(original)


def _red(folder: str) -> str | None:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "4", "--dist", "loadgroup"]
    chosen = ["-m", "not needs_node and not long", f"tests/{folder}"]
    try:
        run = subprocess.run(
            [*command, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{folder} did not end"
    if run.returncode == 0:
        return None
    lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    return lines[0].split(" - ")[0] if lines else f"{folder}: {run.stdout[-200:]}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
