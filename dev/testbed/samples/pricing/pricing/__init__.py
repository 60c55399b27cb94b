"""Prices for a small shop. Amounts are whole cents."""

from pricing.basket import Line, total
from pricing.discount import bulk_discount, discounted

__all__ = ["Line", "bulk_discount", "discounted", "total"]
