"""Observation models p(y | f)."""
