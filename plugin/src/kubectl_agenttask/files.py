"""The files that `init` reads and writes: the values of the chart, and what it writes beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kubectl_agenttask import UsageError


def read_values(file: Path) -> dict[str, Any]:
    """Return the values of an earlier file; empty if there is none.

    Raises:
        UsageError: the file has no values.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"--values {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--values {file}: the file is not text in UTF-8") from error
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--values {file}: the file is not YAML: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"--values {file}: the file must contain a mapping")
    return found or {}


def write(file: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}): choose another --values") from error
