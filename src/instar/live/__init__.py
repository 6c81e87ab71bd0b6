"""Measuring while somebody else trains: a recorder for any loop, and a callback for transformers' Trainer."""
