"""The demonstration: methods of the package compared on three small data sets."""

from lightning_vi.demo.run import run_demo

__all__ = ["run_demo"]
