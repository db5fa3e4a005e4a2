"""Speed as ratios to peers, measured in turns within one run (`python -m bench`)."""
