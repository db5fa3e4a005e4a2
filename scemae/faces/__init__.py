"""Drawn faces with exact landmarks, in the benchmarks' own layout, so that the whole system runs where no photograph may go."""
