"""The Jobs of attempts and of evidence pods, built from plain data."""
