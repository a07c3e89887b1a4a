"""The mathematics of federated learning, without any IO.

>>> from roundel.strategies import compose, fedavg, prox
>>> compose(fedavg(), prox(mu=0.1)).name
'fedavg+prox(mu=0.1)'

A server optimizer is a part of a composition, too, where it may go by its own name:

>>> from roundel.strategies import adam, clip, scaffold, topk
>>> composed = compose(
...     fedavg(), prox(0.1), scaffold(), clip(1.0), topk(0.01, error_feedback=True), adam()
... )
>>> len(composed.parts)
6
"""

from roundel.strategies.aggregators import Maximum, Mean, OverRows
from roundel.strategies.bulyan import bulyan
from roundel.strategies.cast import half
from roundel.strategies.centred_clipping import centred_clipping
from roundel.strategies.clipping import clip
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.coordinatewise import median, trimmed_mean
from roundel.strategies.ditto import ditto, fine_tune
from roundel.strategies.dp_fedavg import dp_adaptive, dp_fedavg
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedbn import fedbn
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedexp import fedexp
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedopt import fedadagrad as adagrad
from roundel.strategies.fedopt import fedadam as adam
from roundel.strategies.fedopt import fedyogi as yogi
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.fedsgd import fedsgd
from roundel.strategies.fltrust import fltrust
from roundel.strategies.geometric_median import geometric_median, rfa
from roundel.strategies.krum import krum, multi_krum
from roundel.strategies.local_dp import local_dp
from roundel.strategies.lora import fedit, ffa_lora
from roundel.strategies.mixing import bucketing, nnm
from roundel.strategies.moon import moon
from roundel.strategies.personal_layers import fedper, fedrep, lg_fedavg
from roundel.strategies.pfedme import pfedme
from roundel.strategies.qfedavg import qfedavg
from roundel.strategies.quantisation import int8, qsgd
from roundel.strategies.registry import STRATEGIES, make_strategy
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import (
    availability,
    by_size,
    over_selection,
    poisson,
    power_of_choice,
    round_robin,
    uniform,
)
from roundel.strategies.signsgd import signsgd
from roundel.strategies.sites import (
    Codec,
    Decoding,
    Finished,
    RoundContext,
    Selection,
    Selector,
    ServerTransform,
    Weigher,
)
from roundel.strategies.topk import topk

__all__ = [
    "STRATEGIES",
    "Codec",
    "Decoding",
    "Finished",
    "Maximum",
    "Mean",
    "OverRows",
    "Part",
    "RoundContext",
    "Selection",
    "Selector",
    "ServerTransform",
    "Strategy",
    "Weigher",
    "adagrad",
    "adam",
    "availability",
    "bucketing",
    "bulyan",
    "by_size",
    "centred_clipping",
    "clip",
    "compose",
    "ditto",
    "dp_adaptive",
    "dp_fedavg",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "feddyn",
    "fedexp",
    "fedit",
    "fednova",
    "fedper",
    "fedprox",
    "fedrep",
    "fedsgd",
    "fedyogi",
    "ffa_lora",
    "fine_tune",
    "fltrust",
    "geometric_median",
    "half",
    "int8",
    "krum",
    "lg_fedavg",
    "local_dp",
    "make_strategy",
    "median",
    "moon",
    "multi_krum",
    "nnm",
    "over_selection",
    "pfedme",
    "poisson",
    "power_of_choice",
    "prox",
    "qfedavg",
    "qsgd",
    "rfa",
    "round_robin",
    "scaffold",
    "signsgd",
    "topk",
    "trimmed_mean",
    "uniform",
    "yogi",
]
