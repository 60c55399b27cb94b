"""The egress proxy: Squid, what it is configured with, who its users are, and what it has denied."""
