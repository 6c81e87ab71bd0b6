"""Planted truths, and how often the verdict is right on them."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped.json"
"""The calibration that the thresholds in `instar.compare.verdict` come from."""
