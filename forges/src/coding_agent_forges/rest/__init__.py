"""The REST client, its limits, and the code that is the same for the APIs of all forges."""
