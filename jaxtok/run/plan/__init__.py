"""What a run would cost on devices that are not attached: real programs, compiled ahead of time and read."""
