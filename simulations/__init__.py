"""Clients, data and networks that we invent: the simulator.

>>> from roundel.simulations import simulate
"""

from roundel.simulations.models import load_model
from roundel.simulations.prepare import Pieces
from roundel.simulations.simulate import resume, simulate

__all__ = ["Pieces", "load_model", "resume", "simulate"]
