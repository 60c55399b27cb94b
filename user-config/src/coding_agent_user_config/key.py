"""The service's API key: in place, or in a file that is read again so that it can be rotated."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ApiKey:
    """What a client must bring; while a key is rotated, that in place and that in the file are both good.

    Attributes:
        value: in place; empty: none.
        file: the key, surrounding white space ignored, as the agent reads the same mounted secret.
    """

    value: str = field(default="", repr=False)
    file: Path | None = None

    def accepts(self, authorization: str | None) -> bool:
        """Whether the header is `Bearer KEY` with a key that is good now; each is compared in constant time.

        Raises:
            OSError: the file cannot be read.
            UnicodeDecodeError: it is no text.
        """
        given = (authorization or "").encode()
        return any(hmac.compare_digest(given, f"Bearer {key}".encode()) for key in self.current())

    def current(self) -> list[str]:
        """The keys that are good now; raises as `accepts`."""
        stored = self.file.read_text(encoding="utf-8") if self.file is not None else ""
        return [key for key in (self.value.strip(), stored.strip()) if key]
