"""Settings: their schema, how they are composed and checked, and the text of a command line as values."""
