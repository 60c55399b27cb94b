"""The platforms of forges: their differences, and functions that make text inert on all of them."""
