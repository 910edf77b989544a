"""Compare: two runs over one corpus."""

from app.browser import parts


def show() -> None:
    """The page."""
    parts.title("Compare")
