"""What goes wrong with a store of transcripts."""

from __future__ import annotations

from coding_agent_core.errors import CodingAgentError


class StoreError(CodingAgentError):
    """The store did not do it; the sentence holds neither a key nor the store's own words."""
