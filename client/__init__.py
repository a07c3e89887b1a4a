"""Training on one client's data."""
