"""Settings: one typed tree (`model`) from config.yaml and the environment (`load`)."""
