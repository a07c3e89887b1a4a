"""Docstrings in NumPy's form in the form that is read here."""

from roundel.simulations.flowerstrategies.numpydoc import in_googles_form

NUMPYS = """Krum [Blanchard et al., 2017] strategy.

Implementation based on https://arxiv.org/abs/1703.02757

It takes one.

Parameters
----------
fraction : float (default: 1.0)
    Fraction of nodes: those of
    a round.
key : str
    A name.

Notes
-----
None of these.
"""

GOOGLES = """Krum [Blanchard et al., 2017] strategy.


It takes one.

Args:
    fraction: Fraction of nodes: those of a round.
    key: A name.

Source:
    https://arxiv.org/abs/1703.02757"""


def test_parameters_become_arguments_and_the_paper_the_source():
    assert in_googles_form(NUMPYS) == GOOGLES


def test_another_form_stays_as_it_is():
    text = "Mean.\n\nArgs:\n    beta: A share.\n"
    assert in_googles_form(text) == text
