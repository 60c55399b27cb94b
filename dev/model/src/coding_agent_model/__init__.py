"""A scripted model behind the OpenAI chat completions API, for development and tests."""
