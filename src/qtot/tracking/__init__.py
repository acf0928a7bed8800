"""Trackers: the metrics of a run, in TensorBoard, Weights & Biases or MLflow as well."""
