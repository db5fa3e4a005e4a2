"""What a sweep shows: its page, figures and results."""
