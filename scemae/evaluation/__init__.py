"""Landmark evaluation: tests (landmarks/), the runs they measure (measuring/), and what is written
of them.
"""
