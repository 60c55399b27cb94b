"""The base of all sections of the settings, and how secrets are given in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from coding_agent_core.secrets import SecretSettings, as_secret_settings

SecretField = Annotated[SecretSettings, BeforeValidator(as_secret_settings)]


class Section(BaseModel):
    """Base of all sections: immutable, so that one task's settings cannot leak into another's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
