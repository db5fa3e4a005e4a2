"""`scemae sweep`: searches of settings with Ray Tune, on one machine or many nodes."""
