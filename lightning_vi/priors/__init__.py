"""Priors p(w)."""
