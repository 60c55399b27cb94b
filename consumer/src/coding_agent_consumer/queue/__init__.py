"""The consumer of a queue: claims, retries, notices."""
