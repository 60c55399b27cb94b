"""The documentation: reference pages made from the code, blocks that tests run, and the site."""
