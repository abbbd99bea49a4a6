"""Run folders -> one HTML file that can be mailed: it needs no network, no other file and no program but a browser."""

from gander.report.page import write

__all__ = ["write"]
