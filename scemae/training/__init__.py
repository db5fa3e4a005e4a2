"""The two stages of training: their loop, schedule, heartbeat, and what guards them."""
