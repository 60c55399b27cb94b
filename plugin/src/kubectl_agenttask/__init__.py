"""`kubectl agenttask`: its errors, whose messages say what to do, each with its exit status."""

from __future__ import annotations

from coding_agent_core.errors import CodingAgentError


class PluginError(CodingAgentError):
    """The command cannot be done as asked."""

    status = 1


class UsageError(PluginError):
    """The command line is wrong."""

    status = 2


class UnreachableError(PluginError):
    """The API server cannot be reached or does not answer."""

    status = 75


class ConfigurationError(PluginError):
    """There is no usable kubeconfig, and trying again does not help."""

    status = 78


class DeniedError(PluginError):
    """The API server denies the request, because the person lacks the right."""

    status = 77
