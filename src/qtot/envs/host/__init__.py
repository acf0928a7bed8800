"""Environments written in Python, as they are. Nothing here imports JAX: workers load it."""
