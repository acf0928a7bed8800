"""Mixing networks: from the agents' Q-values to Q_tot."""
