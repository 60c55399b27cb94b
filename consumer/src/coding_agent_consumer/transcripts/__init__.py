"""Transcripts that outlive the attempt: in a folder, and in a bucket if one is configured."""

from __future__ import annotations

from coding_agent_core.errors import CodingAgentError


class StoreError(CodingAgentError):
    """The store failed. The sentence holds neither a key nor the store's own words."""
