"""Reads the settings: defaults, then `config.yaml`, then the environment, the last word winning."""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings import environment as variables
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.yaml_lines import Document, read


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        file: the file; `None`: the one that `CONFIG_FILE` names, else `config.yaml` in the current folder if
            there is one.
        environment: the variables; `None`: the process's own.

    Raises:
        SettingsError: a file that was named is absent or unreadable, or a setting is wrong or unknown; the
            message names each key with its line or variable.
    """
    environment = os.environ if environment is None else environment
    path = file or (Path(environment["CONFIG_FILE"]) if environment.get("CONFIG_FILE") else None)
    document = Document()
    name = str(path or "config.yaml")
    if path is not None or Path(name).exists():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{name}: cannot read the configuration file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{name}: the configuration file is not UTF-8") from error
        document = read(text, environment, name=name)
    try:
        from_environment, names = variables.tree(environment)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        return _sources(document.data, from_environment)()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error, document, names, name))) from error


def _sources(from_file: dict[str, Any], from_environment: dict[str, Any]) -> type[Settings]:
    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                InitSettingsSource(settings_cls, init_kwargs=from_environment),
                InitSettingsSource(settings_cls, init_kwargs=from_file),
            )

    _Loaded.__name__ = "Settings"
    return _Loaded


def _sentences(
    error: ValidationError, document: Document, names: Mapping[tuple[str, ...], str], file: str
) -> list[str]:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in detail["loc"] if part not in ("function-before", "list", "tuple"))
        key = ".".join(str(part) for part in path)
        variable = next((name for at, name in names.items() if at == path[: len(at)]), None)
        line = document.line(path)
        where = variable or (f"{file}, line {line}" if line else "defaults")
        text = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            text = "unknown setting" + _suggestion(path)
        sentences.append(f"{where}: {key}: {text}")
    return sentences


def _suggestion(path: tuple[str | int, ...]) -> str:
    model: Any = Settings
    for part in path[:-1]:
        model = _field_model(model, part)
        if model is None:
            return ""
    close = difflib.get_close_matches(str(path[-1]), model.model_fields, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(model.model_fields)}"


def _field_model(model: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return model
    field = model.model_fields.get(part)
    candidates = [field.annotation, *typing.get_args(field.annotation)] if field else []
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
