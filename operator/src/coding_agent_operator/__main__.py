"""`python -m coding_agent_operator`: with the settings of `CONFIG_FILE` and the environment."""

from __future__ import annotations

import sys

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings import load_settings

from coding_agent_operator.program import main
from coding_agent_operator.settings import OperatorSettings

try:
    settings = load_settings()
    main(OperatorSettings.of(settings), settings.logging)
except SettingsError as error:
    print(f"Configuration error:\n{error}", file=sys.stderr)
    sys.exit(78)
