"""Objects that the cluster itself needs, as files with a few words to fill in."""

from importlib.resources import files


def manifest(name: str, **words: str) -> str:
    """The text of ``name.yaml`` with each word (in capitals) replaced by its value."""
    text = (files(__name__) / f"{name}.yaml").read_text()
    for word, value in words.items():
        text = text.replace(word, value)
    return text
