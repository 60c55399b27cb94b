"""Which tasks may start: limits and fair shares."""
