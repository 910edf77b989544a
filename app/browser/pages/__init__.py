"""The pages of the app: a module each, and beside it a file of the same name with its queries.

A module has `show`, TITLE, ICON (a name of Material Symbols) and PLACE (pages are listed in its order).
A new page is a new module, with its queries beside it: nothing else lists the pages.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def modules() -> dict[str, Any]:
    """Return the pages in their order, by name; the first is where the app opens."""
    found = {page.name: import_module(f"{__name__}.{page.name}") for page in iter_modules(__path__)}
    return dict(sorted(found.items(), key=lambda page: page[1].PLACE))
