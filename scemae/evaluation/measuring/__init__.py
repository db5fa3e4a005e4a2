"""Measuring trained runs: a plan of subjects and data, and its units of work, kept on disk."""
