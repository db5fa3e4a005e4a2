"""Measuring trained runs: a plan of subjects, data and units of work, which ranks share and keep."""
