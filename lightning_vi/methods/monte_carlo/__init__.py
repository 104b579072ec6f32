"""Methods that draw weights from the posterior by Markov chain Monte Carlo."""

from lightning_vi.methods.monte_carlo.sghmc import SGHMC as SGHMC
