"""The results of a sweep: its page, figures, table and best setting."""
