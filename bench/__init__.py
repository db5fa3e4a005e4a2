"""Speed, told as ratios: each claim is measured side by side with its peers, in turns, in one run (`python -m bench`)."""
