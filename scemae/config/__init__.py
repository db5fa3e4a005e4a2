"""Settings: their schema, how they are composed and checked, and key=value text as values."""
