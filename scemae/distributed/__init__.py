"""Ranks that train together: launcher, process group, DeepSpeed engine, ZeRO state, watchdog."""
