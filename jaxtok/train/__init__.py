"""The shared train loop and what it stands on: sharding, checkpoints, schedules, writers."""
