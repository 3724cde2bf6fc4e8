"""What a run would cost on devices that are not there: real programs, compiled ahead of time and read."""
