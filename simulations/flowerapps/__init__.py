"""Flower apps, unmodified, on workers of ours: without Ray, a daemon or a network.

`roundel.simulations.flowerapps.flower` alone knows Flower. What it sends and gets are parcels
(`roundel.simulations.flowerapps.parcels`), which the rest carries without looking into them more
than it must: to workers and back, and into the run directory.
"""
