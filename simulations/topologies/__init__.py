"""Ways to train that are not clients around one server, to compare federated learning with.

Each kind is one module: `hierarchical`, `local`, `centralised`, `gossip`, `allreduce` and `split`.
They take data, initial model, cohorts and batches from the same seeds as the star does.
"""
