"""Sweeps: many runs, the next of them where the ones before say it may pay. Loads no JAX."""
