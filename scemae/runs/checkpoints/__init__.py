"""Checkpoints: what is in one, saving it while training goes on, resuming from it."""
