"""The browser app: linked pages of texts, tokens, neurons and heads.

    server/         started and guarded; main.py, which Streamlit runs, shows the page that is asked for
    pages/          a module and a file of queries for each page
    conditions.py   the conditions of the Search page, parsed into those of store.search
    links.py        addresses: all state of a page is in its address
    answers.py      questions to the store, cached until the file changes
    limited.py      SQL that a person wrote, within limits
    parts.py        elements of pages: run picker, table with download and SQL, badges, choices
    markup.py       tokens, contexts and tables as HTML; all text of a corpus is escaped here
    notation.py     the logit as an expression
    charts.py       charts
    linked.py       the one component: shows HTML, follows links without a reload, sorts tables

No module here imports torch (app/live.py annotates a prompt), and only `store` reads the file.
"""

VARIABLE = "ANNOTATE_STORE"  # environment variable with the store's path, for the server's process
