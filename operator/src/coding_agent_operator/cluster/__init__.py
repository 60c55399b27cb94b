"""The operator's access to the API server: requests, watches, Leases, and the typed objects read from it."""
