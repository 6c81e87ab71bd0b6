"""Planted truths and moves that change nothing: how often the answer is right, and how often it cries wolf."""

SECOND = "embedded-seed-2"
BASES = ("embedded", SECOND, "embedded-llama", "embedded-shallow")
"""What truths are planted in: two depths, two families, two seeds."""
QUICK = ("embedded", "embedded-llama")
