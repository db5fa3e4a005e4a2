"""`scemae explore --serve`: annotate a folder of pictures in the browser, and fit a detector."""
