"""Settings: one typed tree from config.yaml and the environment. `load_settings` is the way in."""

from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings

__all__ = ["Settings", "load_settings"]
