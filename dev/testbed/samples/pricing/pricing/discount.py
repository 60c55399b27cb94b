"""Discounts: what a customer gets off, and what remains to be paid."""

#: From how many pieces of one article on, and how many percent.
BULK_STEPS = ((100, 15), (50, 10), (10, 5))


def bulk_discount(quantity: int) -> int:
    """Percent off for `quantity` pieces of one article."""
    for pieces, percent in BULK_STEPS:
        if quantity > pieces:
            return percent
    return 0


def discounted(amount: int, percent: int) -> int:
    """What remains of `amount` cents after `percent` off, rounded half up to whole cents."""
    if not 0 <= percent <= 100:
        raise ValueError(f"a discount is between 0 and 100 percent, not {percent}")
    return (amount * (100 - percent) + 50) // 100
