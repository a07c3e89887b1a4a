"""Flower's strategies as strategies of ours, by name.

`roundel.strategies.registry` finds `flower_strategies` here when an experiment names one.
"""
