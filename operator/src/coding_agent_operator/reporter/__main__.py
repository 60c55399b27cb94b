"""`python -m coding_agent_operator.reporter`: with the settings of `CONFIG_FILE` and the environment."""

from __future__ import annotations

import sys

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings import load_settings

from coding_agent_operator.reporter.program import main

try:
    main(load_settings())
except SettingsError as error:
    print(f"Configuration error:\n{error}", file=sys.stderr)
    sys.exit(78)
