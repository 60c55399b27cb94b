"""The agent's own clone: git, commits, their signatures, and the cache."""
