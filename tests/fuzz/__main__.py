"""Search for inputs for which a target's properties do not hold, guided by coverage: `make fuzz`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

PACKAGES = [
    "coding_agent_core",
    "coding_agent_forges",
    "coding_agent_receiver",
    "coding_agent_operator",
    "coding_agent_consumer",
]
FOUND = Path(__file__).parents[2] / ".cache" / "fuzz"
"""Here the fuzzer keeps the inputs that reach something new, and those that fail."""
LARGEST = 2048

with atheris.instrument_imports(include=PACKAGES):
    from tests.fuzz.targets import CORPUS, TARGETS

from tests.fuzz.mutation import mutate
from tests.fuzz.selection import keep


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long to search (default: 60)")
    parser.add_argument("--keep", type=int, help="do not search; make a corpus of so many files")
    given = parser.parse_args()
    found = FOUND / given.target
    found.mkdir(parents=True, exist_ok=True)
    if given.keep is not None:
        keep(TARGETS[given.target], found, CORPUS / given.target, given.keep, LARGEST)
        return
    options = [
        f"-max_total_time={given.seconds}",
        f"-max_len={LARGEST}",
        f"-artifact_prefix={found.parent}/{given.target}-",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(found), str(CORPUS / given.target)],
        TARGETS[given.target],
        custom_mutator=lambda data, most, seed: mutate(data, most, seed, atheris.Mutate),
    )
    atheris.Fuzz()


main()
