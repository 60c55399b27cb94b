"""What the targets share: the parts of an input, an AgentTask as an API server stores it, and costs."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.task.agenttask import API_VERSION, KIND, AgentTask
from jsonschema import Draft7Validator, FormatChecker

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CRD = yaml.safe_load((Path(__file__).parents[2] / "crds" / "agenttask.yaml").read_text())
_FORMATS = FormatChecker(())
_STORES = Draft7Validator(_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"], format_checker=_FORMATS)


@_FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    """Whether the API server takes a text as a time; it requires the time zone."""
    return not isinstance(value, str) or bool(_TIME.fullmatch(value))


def header_of(data: bytes) -> tuple[str, bytes]:
    """Split an input into its first line, as ASGI servers decode headers, and the rest."""
    head, _, rest = data.partition(b"\n")
    return head.decode("latin-1"), rest


def at_most(length: int, limit: int) -> None:
    """Require that what was made of an input is bounded."""
    assert length <= limit, f"{length} of at most {limit}"


def stored(spec: Any, status: Any = None, annotations: Mapping[str, str] | None = None) -> AgentTask:
    """Return an AgentTask with the metadata that the API server adds."""
    metadata = {
        "name": "demo-issue-7-0123456789abcdef",
        "namespace": "default",
        "uid": "5c8b3b4e-0000-4000-8000-000000000000",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-11-25T12:00:00Z",
        "annotations": dict(annotations or {}),
    }
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    return AgentTask.of(body if status is None else {**body, "status": status})


def refusals(task: Mapping[str, Any]) -> list[str]:
    """Return why the API server would refuse an AgentTask, by the schema of the resource."""
    return [f"{error.json_path}: {error.message[:200]}" for error in _STORES.iter_errors(task)]


def written(value: object) -> bytes:
    """Return a value as the JSON of a request; one that is not JSON in UTF-8 is an error."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


LONGEST, _SHORTER = 64 * 1024, 8 * 1024
"""The length of the texts of strangers: what is kept of a log, and what GitHub accepts as a comment. A reader
that is linear needs 8 times as long for it as for the shorter one, and a quadratic one 64 times."""
_GROWTH, _NEGLIGIBLE = 20, 0.2
"""How many times as long it may take, and how many seconds nobody minds."""
_MEASURED = 3
"""How often a time is measured that is too long. The shortest counts: a busy machine only adds to it."""
_MANY, _FEW = 4 * 1024, 1024
"""The length of the texts for which calls are counted. A linear reader calls 4 times as often for the longer
one, and a quadratic one 16 times."""
_MORE_CALLS, _OTHER_CALLS = 8, 50
"""How many times as often it may call, and how many calls the text's length has nothing to do with."""


def linear(reader: Callable[[str], object], parts: Iterable[str]) -> None:
    """Require that a reader's work does not grow with the square of a text's length.

    The time is that of the processor, so that other programs do not count. It includes what regular
    expressions do, which no counter shows.
    """
    for part in parts:
        for shorter, longer in _texts(part, _SHORTER, LONGEST):
            long = _seconds(reader, longer)
            if long <= _NEGLIGIBLE:
                continue
            for _ in range(_MEASURED):
                short, long = _seconds(reader, shorter), min(long, _seconds(reader, longer))
                if long < _GROWTH * short + _NEGLIGIBLE:
                    break
            else:
                raise AssertionError(
                    f"{short:.3f} s for {_SHORTER} characters of {part!r}, and {long:.1f} s for {LONGEST}"
                )


def calls_linear(reader: Callable[[str], object], parts: Iterable[str]) -> None:
    """Require that the number of calls that a reader makes does not grow with the square of a text's length.

    The count is the same on every machine. It does not see into regular expressions: see `linear`.
    """
    for part in parts:
        for shorter, longer in _texts(part, _FEW, _MANY):
            few, many = _calls(reader, shorter), _calls(reader, longer)
            assert many < _MORE_CALLS * few + _OTHER_CALLS, (
                f"{few} calls for {_FEW} characters of {part!r}, and {many} for {_MANY}"
            )


def _texts(part: str, *lengths: int) -> Iterator[tuple[str, ...]]:
    """Yield texts of these lengths, each one part repeated: a reader that begins anew at each of them needs
    the square."""
    repeated = [(part * (length // len(part) + 1))[:length] for length in lengths]
    for form in ("{}\x01", "\n{}\n"):
        yield tuple(form.replace("{}", text) for text in repeated)


def _calls(reader: Callable[[str], object], text: str) -> int:
    """Return how many functions were called, those of C included."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        reader(text)
    finally:
        sys.setprofile(before)
    return count


def _seconds(reader: Callable[[str], object], text: str) -> float:
    before = time.process_time()
    reader(text)
    return time.process_time() - before
