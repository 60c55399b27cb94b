"""How the tiers of tests are run: `make test` with its second try, and what is written about it."""
