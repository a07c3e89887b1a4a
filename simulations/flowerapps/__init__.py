"""Flower apps, unmodified, on workers of ours or over our nodes: without Ray, without a daemon.

The modules called ``flower`` or ``flower_...`` alone know Flower. What they send and get are
parcels (`roundel.simulations.flowerapps.parcels`), which the rest carries without looking into them
more than it must: to workers and back, and into the run directory.
"""
