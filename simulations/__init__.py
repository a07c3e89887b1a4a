"""Clients, data and networks that we invent: the simulator.

>>> from roundel.simulations import compare, simulate
"""

from roundel.simulations.compare import compare
from roundel.simulations.models import load_model
from roundel.simulations.prepare import Pieces
from roundel.simulations.simulate import resume, simulate

__all__ = ["Pieces", "compare", "load_model", "resume", "simulate"]
