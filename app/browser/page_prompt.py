"""Prompt: a text of one's own, annotated live."""

from app.browser import parts


def show() -> None:
    """The page."""
    parts.title("Prompt")
