"""Processes of a sweep on one machine: Ray, the fork server, trials and their ranks."""
