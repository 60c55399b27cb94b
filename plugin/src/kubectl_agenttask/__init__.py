"""`kubectl agenttask`, and what can go wrong: sentences that name the remedy, each with its exit status."""

from __future__ import annotations

from coding_agent_core.errors import CodingAgentError


class PluginError(CodingAgentError):
    """It cannot be done as asked."""

    status = 1


class UsageError(PluginError):
    """The command line is wrong."""

    status = 2


class UnreachableError(PluginError):
    """The API server does not answer, or cannot be reached."""

    status = 75


class ConfigurationError(PluginError):
    """There is no usable kubeconfig; trying again does not help."""

    status = 78


class DeniedError(PluginError):
    """The API server refuses the person."""

    status = 77
