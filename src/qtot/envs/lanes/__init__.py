"""Programs of many small arrays, with the environments on the last axis."""
