"""The report: one HTML file per root that shows what the flywheel did, offline and in one look.

It only reads records, manifests and a few rows; nothing in it changes a run.
"""

from model_ops.report.page import write_report

__all__ = ["write_report"]
