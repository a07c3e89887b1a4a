"""Flower apps over nodes: the ServerApp at a coordinator of ours, the ClientApp on nodes that join.

`roundel.simulations.flowerapps.served.deployed` puts it together. The coordinator's side is
`remote`, `carrying` and `replies`, the node's `hosting`, and what passes between them `terms`,
`wired` and `copies`; `checking` looks at every field that comes from a node.
"""
