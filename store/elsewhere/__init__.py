"""Stores that are not one file on this machine, such as a file on a web server; each can only be read."""
