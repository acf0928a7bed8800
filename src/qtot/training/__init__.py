"""Collecting and learning in one program, and the loop around it."""
