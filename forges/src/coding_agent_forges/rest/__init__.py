"""The REST client, its rate limits, and the code that all forges share."""
