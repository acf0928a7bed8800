"""Policies that leave the lab: ONNX networks and the folder they travel in."""
