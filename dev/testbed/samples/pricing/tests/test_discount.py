import unittest

from pricing.discount import bulk_discount, discounted


class BulkDiscount(unittest.TestCase):
    def test_few_pieces_cost_full_price(self):
        self.assertEqual(bulk_discount(1), 0)
        self.assertEqual(bulk_discount(9), 0)

    def test_discount_starts_at_the_step_itself(self):
        self.assertEqual(bulk_discount(10), 5)
        self.assertEqual(bulk_discount(50), 10)
        self.assertEqual(bulk_discount(100), 15)

    def test_above_a_step(self):
        self.assertEqual(bulk_discount(11), 5)
        self.assertEqual(bulk_discount(60), 10)
        self.assertEqual(bulk_discount(1000), 15)


class Discounted(unittest.TestCase):
    def test_rounds_half_up(self):
        self.assertEqual(discounted(999, 50), 500)

    def test_refuses_more_than_everything(self):
        with self.assertRaises(ValueError):
            discounted(1000, 101)


if __name__ == "__main__":
    unittest.main()
