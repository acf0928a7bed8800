"""Runs that come from PyMARL and EPyMARL."""
