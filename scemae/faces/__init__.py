"""Drawn faces with exact landmarks, in CelebA's layout, so that the whole system runs where no photograph may go."""
