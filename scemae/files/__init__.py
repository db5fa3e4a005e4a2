"""Files that may come from somebody else: opened, replaced and parsed with checks."""
