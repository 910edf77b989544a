"""How answers are shown: columns and headings, tables, files of several formats."""
