"""Rounds over many clients."""
