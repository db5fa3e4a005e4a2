"""Folders of shards: what they hold, reading one sample, and copying shards from a URL."""
