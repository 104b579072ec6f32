"""Mixtures of several networks or methods."""
