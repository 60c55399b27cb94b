"""The settings: one typed tree (`model`), read from config.yaml and the environment (`load`)."""
