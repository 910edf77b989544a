"""The server: started, guarded, and the script that it runs.

The script has a folder of its own, because Streamlit would run the files of a folder `pages` beside it.
"""
