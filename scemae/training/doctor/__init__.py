"""`scemae doctor`: would this run start, go through, and stop in time?"""
