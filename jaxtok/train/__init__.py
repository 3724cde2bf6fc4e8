"""The shared train loop and what it stands on: stages, updates, sharding rules, checkpoints, writers."""
