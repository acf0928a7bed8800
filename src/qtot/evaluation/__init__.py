"""Greedy episodes, agents that act alone, and statistics."""
