"""The egress proxy: Squid with its configuration, the check of its users, and the counts of its denials."""
