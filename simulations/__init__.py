"""Clients, data and networks that we invent: the simulator.

>>> from roundel.simulations import simulate
"""

from roundel.simulations.simulate import Pieces, resume, simulate

__all__ = ["Pieces", "resume", "simulate"]
