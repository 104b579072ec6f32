"""Variational posteriors q(w)."""
