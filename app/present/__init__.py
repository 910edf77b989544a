"""Display of answers: columns with headings, tables on a terminal, and files in several formats."""
