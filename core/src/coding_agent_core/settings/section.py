"""The base of all sections of the settings, and the forms of values that several of them have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from coding_agent_core.secrets import SecretSettings, as_secret_settings

SecretField = Annotated[SecretSettings, BeforeValidator(as_secret_settings)]
_Value = TypeVar("_Value")


class Section(BaseModel):
    """Base of all sections: immutable, so that one task's settings cannot leak into another's."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def for_repository(values: Mapping[str, _Value], host: str, repository: str) -> _Value | None:
    """The value for a repository: under `host/owner/repo`, else `owner/repo`; letter case is ignored."""
    known = {name.lower(): value for name, value in values.items()}
    path = repository.lower()
    return known.get(f"{host.lower()}/{path}", known.get(path))
