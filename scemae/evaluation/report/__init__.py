"""`scemae report`: everything that a run has to show, as one page."""
