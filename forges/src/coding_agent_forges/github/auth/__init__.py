"""The credentials on GitHub: a token, or an App whose key only the token service has."""
