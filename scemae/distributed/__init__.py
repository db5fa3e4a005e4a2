"""Processes that train together: launchers, process group, DeepSpeed engine, ZeRO state, watchdog."""
