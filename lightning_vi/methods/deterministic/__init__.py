"""Methods with one deterministic network, and Monte Carlo dropout."""
