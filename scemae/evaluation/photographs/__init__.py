"""`scemae match` and `scemae detect`: trained features on photographs of your own."""
