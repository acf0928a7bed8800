"""Published experiments, each one command and one module."""
