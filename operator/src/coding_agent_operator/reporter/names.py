"""Names of what the reporter writes and watches."""

from __future__ import annotations

from coding_agent_core.agenttask import LABEL_REPORTED

MANAGER = "coding-agent-reporter"
"""Source of events and field manager of writes."""
ROLE = "operator/deploy/reporter-role.yaml"
"""The rules that its account needs."""
WATCHED = f"{LABEL_REPORTED}!=true"
"""Selects what is active, and what ended and is not shown yet: one selector for both, so that a restart finds
all that is left to do, and what ever ended costs nothing."""
