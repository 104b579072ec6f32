"""Metrics for uncertainty quantification."""
