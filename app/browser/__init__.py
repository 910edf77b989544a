"""The browser app: pages that go from a text to a token, to a neuron or head, to everywhere it acts.

    main.py         the pages and what stands around them; Streamlit runs this file
    page_*.py       one page each: reads its link, asks, shows
    conditions.py   the Search page's conditions: read from a line, made into store.search's objects
    links.py        what is on the screen is in the address: made and read here
    answers.py      questions to the store, cached until the file changes; pages.sql what only pages ask
    parts.py        pieces of pages: run picker, table with download and SQL, badges, choices
    markup.py       tokens, contexts and tables as HTML, everything escaped
    charts.py       charts
    linked.py       the one component: shows that HTML, follows its links without a reload, sorts tables
    start.py        starts the server
    guard.py        lets nobody but this machine's own browser talk to it

Nothing here imports torch (a prompt is annotated by app/live.py), and nothing but `store` reads the file.
"""

VARIABLE = "ANNOTATE_STORE"  # names the file: how the command tells the server's process
