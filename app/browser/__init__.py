"""The browser app: linked pages about texts, tokens, neurons and heads.

    server/         starts the server and checks each request; main.py, run by Streamlit, shows a page
    pages/          for each page a module, and a file with its SQL queries
    conditions.py   the conditions of the Search page, parsed into those of store.search
    links.py        URLs (addresses of pages); the whole state of a page is in its URL
    answers.py      functions that query the store and cache the results until the file changes
    limited.py      SQL written by a user, run within limits
    parts.py        elements that pages share: run picker, tables with download and SQL, badges, choices
    markup.py       tokens, contexts and tables as HTML; all text of a corpus is escaped here
    target.py       the choice of the logit that is taken apart; total effects of heads
    notation.py     the logit written as a sum of terms
    patterns.py     the logit lens and attention patterns over a stretch of text; grids.py: their HTML
    findings.py     what a person has kept, in a JSON file beside the store
    charts.py       charts
    linked.py       the only Streamlit component: shows HTML, follows links without a reload, sorts tables

Only answers.runner imports torch, when a model is first needed. Only the package `store` reads the file.
"""

VARIABLE = "ANNOTATE_STORE"  # name of the environment variable that holds the path of the store
