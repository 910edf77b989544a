"""How answers are shown: their columns and headings, tables, and files in several formats."""
