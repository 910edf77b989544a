"""Search: one box."""

from app.browser import parts


def show() -> None:
    """The page."""
    parts.title("Search")
