"""Loads all settings from the defaults, `config.yaml` and the environment; later sources win.

Each error names the key with the line in the file, or the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings
from coding_agent_core.settings.predecessor import translated
from coding_agent_core.settings.reading import Findings, Variables, read_settings


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings. `examine` describes the arguments.

    Raises:
        SettingsError: a named file is absent or unreadable, or a setting is wrong or unknown. The message
            names each key with its line or variable.
    """
    return examine(file, environment).require()


def examine(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Findings[Settings]:
    """Read the settings, and find everything that is wrong or has no effect.

    Args:
        file: the file; `None` for the file that `CONFIG_FILE` names, or otherwise for `config.yaml` in the
            current folder, if there is one.
        environment: the variables; `None` for those of the process.
    """
    variables = Variables(VARIABLES, SECRET_VARIABLES)
    return read_settings(Settings, variables, file, environment, translated)
