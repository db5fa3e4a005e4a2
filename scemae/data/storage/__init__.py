"""Shards at rest: what a folder of them holds, reading one sample of it, and copying shards from a URL."""
