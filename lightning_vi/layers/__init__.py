"""Layers with stochastic weights."""
