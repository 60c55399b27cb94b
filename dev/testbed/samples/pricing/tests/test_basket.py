import unittest

from pricing.basket import Line, total


class Total(unittest.TestCase):
    def test_adds_the_lines(self):
        self.assertEqual(total([Line("tea", 450), Line("cup", 1200, 2)]), 2850)

    def test_bulk_discount_is_taken_line_by_line(self):
        self.assertEqual(total([Line("spoon", 100, 20), Line("tea", 450)]), 2350)

    def test_empty_basket_is_free(self):
        self.assertEqual(total([]), 0)


if __name__ == "__main__":
    unittest.main()
