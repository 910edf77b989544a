"""The store as tools for language models, over the Model Context Protocol (`annotate mcp`).

tools.py    the tools: typed functions, each of which asks a store one kind of question
answers.py  answers as JSON of bounded length, which say whether they are exact and truncated
server.py   the server, on standard input and output; the only file that imports the SDK
"""
