"""The types and rules of webhooks that the parsers of all forges share."""
