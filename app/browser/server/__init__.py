"""The app's server: how it starts, how it checks requests, and main.py, the script that Streamlit runs.

main.py is in a folder of its own, because Streamlit would run the files of a folder `pages` beside it.
"""
