"""Files that somebody else may have written: opened, replaced and parsed with checks."""
