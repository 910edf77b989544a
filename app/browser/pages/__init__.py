"""The pages of the app. Each page is a module; its SQL queries, if any, are in a .sql file of the same name.

A module has `show`, TITLE, ICON (a name of Material Symbols) and PLACE (the app lists pages in its order). If
the page shows an object, KEEPS has the names of the URL parameters that say which object (see focus.py).
To add a page, add a module and its .sql file: there is no other list of pages.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def modules() -> dict[str, Any]:
    """Return a dictionary from page name to module, sorted by PLACE; the app opens with the first page."""
    found = {page.name: import_module(f"{__name__}.{page.name}") for page in iter_modules(__path__)}
    return dict(sorted(found.items(), key=lambda page: page[1].PLACE))
