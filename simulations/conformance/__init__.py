"""The laws that every strategy keeps, and the check of one strategy against them.

Most are laws of the seams, not of an algorithm: nothing changes its arguments, nothing is kept but
in states, the order of arrival means nothing, a checkpoint loses nothing, one client's NaN harms
nobody. `check` tries them on a federation of a few clients (`trial`), in single and in double
precision, with a strategy whose every function is watched (`observed`).
"""

from roundel.simulations.conformance.check import UNTRIED, Verdict, check

__all__ = ["UNTRIED", "Verdict", "check"]
