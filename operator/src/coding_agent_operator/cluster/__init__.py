"""What the operator asks of the API server: requests, watches, Leases, and what they show."""
