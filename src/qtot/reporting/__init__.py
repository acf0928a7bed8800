"""One page of run folders: did it learn, how sure are we, and who did what? From what lies on disk;
nothing here imports JAX.
"""
