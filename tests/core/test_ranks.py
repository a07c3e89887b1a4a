"""The only rank of a run."""

import torch

from roundel.core.ranks import ALONE, Ranks


def test_a_rank_that_is_alone_hears_itself():
    ranks: Ranks = ALONE
    assert (ranks.rank, ranks.size) == (0, 1)
    own = torch.tensor([1.0, 2.0])
    ranks.add_up_(own)
    assert own.tolist() == [1.0, 2.0]
    assert all(torch.equal(f(own), own) for f in (ranks.largest, ranks.joined))
    assert list(ranks.gathered(b"word")) == list(ranks.exchanged([b"word"])) == [b"word"]
