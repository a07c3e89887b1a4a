"""Clients that attack on purpose, to see what a strategy does about them."""
