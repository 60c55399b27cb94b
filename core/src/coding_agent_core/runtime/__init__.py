"""What every program needs while it runs: HTTP server, logs, metrics, retries."""
