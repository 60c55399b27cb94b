"""Fixtures of other tiers that trials use."""

from tests.integration.consumer_attempt.conftest import make_place

__all__ = ["make_place"]
