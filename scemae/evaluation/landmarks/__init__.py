"""The tests of landmarks: benchmarks, pairs, matching, regression, few annotated images."""
