"""Report on a fitted method: one HTML file with data, training, scores, calibration and predictions."""

from lightning_vi.report.write import write_report

__all__ = ["write_report"]
