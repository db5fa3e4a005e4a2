"""A run folder and what makes it survive: starts, checkpoints, the sample ledger, metrics."""
