"""Photographs of one's own: `scemae match` and `scemae detect`, on any image file and a square box in it."""
