"""The run folder. The only layer that knows file names."""
