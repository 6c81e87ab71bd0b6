"""The embedded model: a small GPT-2 that has mastered 2-object IOI and not 3-object, and the recipe that makes it."""

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
NAME = "embedded"
