"""`scemae sweep`: hyper-parameter searches with Ray Tune, safe on a shared cluster."""
