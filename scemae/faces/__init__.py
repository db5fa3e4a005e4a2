"""Drawn faces with exact landmarks, in the benchmarks' layouts, for use without photographs."""
