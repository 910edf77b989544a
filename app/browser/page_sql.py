"""SQL: the store's views, asked directly."""

from app.browser import parts


def show() -> None:
    """The page."""
    parts.title("SQL")
