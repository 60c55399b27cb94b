"""A forge's token: read again when its file changes, and named in the error when there is none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.secrets import Secrets


@dataclass
class Token:
    """The token of one platform's configured installation."""

    platform: Platform
    secrets: Secrets = field(repr=False)

    def current(self) -> str:
        """The value to send now.

        Raises:
            SettingsError: none is configured, or its file is absent or empty.
        """
        value = self.secrets.first()
        if value is None:
            name = FACTS[self.platform].title
            files = ", ".join(str(path) for path in self.secrets.settings.files)
            looked = f" ({files} cannot be read or is empty)" if files else ""
            raise SettingsError(
                f"No token for {name}{looked}: set `{self.platform}.personal_access_token` in the "
                f"configuration file or the variable {FACTS[self.platform].credential_variable}."
            )
        return value

    def fingerprint(self) -> str:
        """Tells whether the token is still the same one, without keeping it."""
        return hashlib.sha256(self.current().encode()).hexdigest()
