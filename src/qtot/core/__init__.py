"""The learning core: pure JAX, no I/O, no environments."""
