"""Tells people where to set a credential: in the configuration, or in a Secret that the chart mounts.

The chart refuses the settings themselves (`CHART_SETS` in charts/schema.py), so a message that names only
the settings would mislead people.
"""

from __future__ import annotations

from functools import reduce
from typing import cast

from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.settings.llm import VENDORS
from coding_agent_core.settings.model import VARIABLES, Backend, Settings
from coding_agent_core.settings.section import SecretSettings

CHART_VALUES = {
    **{f"{platform}.personal_access_token": f"secrets.{platform}.token" for platform in Platform},
    **{f"llm.{provider}.api_key": "secrets.model.apiKey" for provider in VENDORS},
    **{f"webhook.{name}.{facts.webhook_setting}": f"secrets.webhook.{name}" for name, facts in FACTS.items()},
}
"""The chart's value for each setting. Next to it, `existingSecret` can name a Secret of the administrator."""


def credential_place(settings: Settings, setting: str) -> str:
    """Say where to set a credential, for a sentence such as "check …".

    On Kubernetes, the result names the Secret, its key and the chart's value; elsewhere the setting and its
    variable.

    Args:
        setting: the dotted name, one of `CHART_VALUES`.
    """
    path = tuple(setting.split("."))
    variable = next(name for name, at in VARIABLES.items() if at == path)
    if settings.backend is not Backend.KUBERNETES:
        return f"`{setting}` ({variable})"
    given = cast("SecretSettings", reduce(getattr, path, cast("object", settings)))
    if given.values and not given.files:
        # The chart mounts only files, so the value is from a person's settings or the pod template's `env`.
        return f"`{setting}` in the person's own settings, or {variable} in the pod's environment"
    mounted = {file.name for file in given.files}
    secrets = dict.fromkeys(
        f"the key `{entry.key}` of the Secret `{entry.secret}`"
        for entry in settings.operator.job.credentials
        if entry.file in mounted and not entry.evidence
    )
    value = f"the chart's value `{CHART_VALUES[setting]}`"
    return f"{' or '.join(secrets)} ({value})" if secrets else value
