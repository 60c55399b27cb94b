"""The forges: one folder for each platform, and the code that they share."""
