"""Settings: one typed tree from config.yaml and the environment. `load_settings` and `examine` read it."""

from coding_agent_core.settings.load import examine, load_settings
from coding_agent_core.settings.model import Settings

__all__ = ["Settings", "examine", "load_settings"]
