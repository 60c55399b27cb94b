"""A basket and its total."""

from dataclasses import dataclass

from pricing.discount import bulk_discount, discounted


@dataclass(frozen=True)
class Line:
    """One article in the basket: `price` is for one piece, in cents."""

    article: str
    price: int
    quantity: int = 1


def total(lines: list[Line]) -> int:
    """The whole basket in cents, with the bulk discount of each line."""
    return sum(discounted(line.price * line.quantity, bulk_discount(line.quantity)) for line in lines)
