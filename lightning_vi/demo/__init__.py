"""The demonstration: four methods on three small data sets, in about a minute."""

from lightning_vi.demo.run import run_demo

__all__ = ["run_demo"]
