"""`scemae explore`: trained features in the browser, as one page that needs no server."""
