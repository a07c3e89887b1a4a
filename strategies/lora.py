"""Low-rank adapters: a frozen model, of which small factors beside its linear layers are trained.

A layer ``W x + b`` becomes ``W x + b + alpha / rank * B A x``, with A of shape ``(rank, in)`` and
B of shape ``(out, rank)``. W and b keep their names, so that any file of the plain model can be
started from; B starts at 0, so that nothing changes before training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized

from roundel.core.errors import CompositionError
from roundel.core.job import Phase
from roundel.strategies.compose import Part
from roundel.strategies.server_optimizers import at_least_one, positive, unit_interval

_A, _B = "lora_a", "lora_b"


def fedit(
    *,
    rank: int = 16,
    alpha: float = 16.0,
    dropout: float = 0.05,
    modules: str | list[str] | None = None,
    clip_norm: float = 1.0,
) -> Part:
    """FedAvg of adapters on a frozen model: A and B are averaged, each for itself.

        y  = W x + b + alpha / rank * B A dropout(x)      W, b and all other parameters are frozen
        A += sum(p_k (A_k - A)),  B += sum(p_k (B_k - B))

    The mean of the factors is not the factor of the mean, ``mean(B) mean(A) != mean(B A)``;
    `averaging_error` tells by how much. Give the model to start from as `task.initial`: a run's
    directory, or a safetensors file. Without it a model drawn at random stays frozen.

    Args:
        rank: Rows of A, 1 or more. The authors' default is 16.
        alpha: Scale of the adapters, above 0, divided by the rank. The authors' default is 16. A
            file of adapters does not hold it: going on from one needs the same alpha and rank.
        dropout: Share of what A is given that is left out in training, in [0, 1). The authors'
            default is 0.05.
        modules: Patterns of the names of linear layers to adapt, such as ``"*.query"``; None for
            every ``nn.Linear``.
        clip_norm: The largest norm of a client's gradient, above 0, unless `client.clip_norm` says
            one: the gradients of two factors grow with each other. 1 is what the authors' trainer
            does by default.

    Needs:
        A model with ``nn.Linear`` layers that it calls. Only adapters (and buffers) travel.
    Verified:
        Oracle case (what separate averages give), gradients against autograd on merged weights, and
        federations: bytes, and frozen weights bit for bit.
    Source:
        J. Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP
        2024 (arXiv:2305.05644); E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language
        Models", ICLR 2022.
    """
    adapters = _Adapters(rank=rank, alpha=alpha, dropout=dropout, modules=modules, frozen_a=False)
    return _part("fedit", adapters, clip_norm)


def ffa_lora(
    *,
    rank: int = 16,
    alpha: float = 16.0,
    dropout: float = 0.05,
    modules: str | list[str] | None = None,
    clip_norm: float = 1.0,
) -> Part:
    """Federated adapters whose A stays as it was drawn, the same at every client.

        y  = W x + b + alpha / rank * B A dropout(x)      W, b, A and all others are frozen
        B += sum(p_k (B_k - B))

    With one A the mean of the adapters is the adapter of the mean: averaging is exact, noise and
    clipping act on a linear map, and half as much travels. A is drawn from the model's seed, which
    every client knows, and is saved with the final model.

    Args:
        rank: As in `fedit`.
        alpha: As in `fedit`.
        dropout: As in `fedit`.
        modules: As in `fedit`.
        clip_norm: As in `fedit`.

    Needs:
        A model with ``nn.Linear`` layers that it calls. Only B (and buffers) travels.
    Verified:
        Oracle case (the average is exact), and federations: bytes, and A bit for bit.
    Source:
        Y. Sun et al., "Improving LoRA in Privacy-Preserving Federated Learning", ICLR 2024.
    """
    adapters = _Adapters(rank=rank, alpha=alpha, dropout=dropout, modules=modules, frozen_a=True)
    return _part("ffa_lora", adapters, clip_norm)


def _part(name: str, adapters: "_Adapters", clip_norm: float) -> Part:
    positive("clip_norm", clip_norm)

    def limited(phases: Sequence[Phase]) -> Sequence[Phase]:
        return [replace(phase, clip_norm=phase.clip_norm or clip_norm) for phase in phases]

    return Part(
        name=name,
        phases=limited,
        model=adapters,
        fresh=is_adapter,
        provides=frozenset({"adapters"}),
        refuses={"adapters": "both put adapters on the model's layers; use one of them"},
    )


def is_adapter(name: str) -> bool:
    """Tell whether a tensor of that name belongs to an adapter."""
    return name.rsplit(".", 1)[-1] in {_A, _B}


class LoraLinear(nn.Linear):
    """A frozen linear layer with an adapter.

    Attributes:
        lora_a: Shape ``(rank, in)``, drawn as LoRA's authors do.
        lora_b: Shape ``(out, rank)``, 0.
        scale: What ``B A`` counts.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = layer.weight
        self.bias = layer.bias
        self.scale = scale
        self.dropout = dropout
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=sqrt(5))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        """Return the layer's output and the adapter's, added."""
        dropped = functional.dropout(input, self.dropout, training=self.training)
        adapted = functional.linear(functional.linear(dropped, self.lora_a), self.lora_b)
        return super().forward(input) + self.scale * adapted

    def merged(self) -> nn.Linear:
        """Return a plain layer that does the same in evaluation."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        with torch.no_grad():
            change = self.scale * (self.lora_b @ self.lora_a)
            plain.weight = nn.Parameter(self.weight + change)
            if self.bias is not None:
                plain.bias = nn.Parameter(self.bias.clone())
        return plain.train(self.training)


def adapter_scales(model: nn.Module) -> Mapping[str, float]:
    """Return by what each adapter of a model counts, ``alpha / rank``, by the layer's name."""
    return {
        name: layer.scale
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, LoraLinear)
    }


def without_adapters(model: nn.Module) -> nn.Module:
    """Put every adapter into the weights of its layer, so that a plain model is left.

    Args:
        model: One of a run with adapters; changed in place, and returned.
    """
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, LoraLinear):
            model = _put(model, name, layer.merged())
    return model


class _Adapters:
    """Freezes a model and puts adapters on its linear layers."""

    def __init__(
        self,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        modules: str | list[str] | None,
        frozen_a: bool,
    ) -> None:
        at_least_one("rank", rank)
        positive("alpha", alpha)
        unit_interval("dropout", dropout)
        self._patterns = ["*"] if modules is None else _listed(modules)
        self._rank = rank
        self._scale = alpha / rank
        self._dropout = dropout
        self._frozen_a = frozen_a

    def __call__(self, model: nn.Module) -> nn.Module:
        """Change a model in place and return it."""
        chosen = self._chosen(model)
        _check_called(model, chosen)
        model.requires_grad_(requires_grad=False)
        made: dict[nn.Linear, LoraLinear] = {}
        for name, layer in chosen.items():
            if layer not in made:  # one that stands in two places gets one adapter
                adapted = LoraLinear(layer, self._rank, self._scale, self._dropout)
                adapted.lora_a.requires_grad = not self._frozen_a
                made[layer] = adapted.train(layer.training)
            model = _put(model, name, made[layer])
        return model

    def _chosen(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the linear layers to adapt, by name."""
        modules = model.named_modules(remove_duplicate=False)
        layers = {name: module for name, module in modules if isinstance(module, nn.Linear)}
        if not layers:
            raise CompositionError(
                f"adapters go on nn.Linear layers, and {type(model).__name__} has none; build it "
                "of some, or train all of it with fedavg"
            )
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise CompositionError(
                    f"modules = {pattern!r} matches no nn.Linear of {type(model).__name__}; it "
                    f"has {', '.join(layers)}"
                )
        chosen = {
            name: layer
            for name, layer in layers.items()
            if any(fnmatchcase(name, pattern) for pattern in self._patterns)
        }
        for name, layer in chosen.items():
            _check_plain(name, layer)
        return chosen


def _listed(modules: str | list[str]) -> list[str]:
    if not modules:
        raise CompositionError("modules names nothing; leave it out to adapt every nn.Linear")
    return [modules] if isinstance(modules, str) else modules


def _check_plain(name: str, layer: nn.Linear) -> None:
    """Refuse a layer that computes something else than ``W x + b``.

    Raises:
        CompositionError: An adapter would take the place of that.
    """
    own = dict(layer.named_parameters(recurse=False))
    if type(layer).forward is not nn.Linear.forward:
        what = f"a {type(layer).__name__}, with a forward of its own"
    elif is_parametrized(layer) or "weight" not in own:
        what = "parametrized: its weight is computed from others"
    else:
        return
    raise CompositionError(
        f"the layer {name!r} is {what}, which an adapter there would not keep: choose other layers "
        "by `modules`"
    )


def _check_called(model: nn.Module, chosen: dict[str, nn.Linear]) -> None:
    """Refuse layers whose weights are read without the layer being called.

    Raises:
        CompositionError: An adapter there would have no effect.
    """
    readers = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    for name, part in model.named_modules():
        inside = [child for child in part.children() if isinstance(part, readers)]
        for layer_name, layer in chosen.items():
            if any(layer is child for child in inside):
                raise CompositionError(
                    f"{type(part).__name__} {name!r} reads the weights of its layer {layer_name!r} "
                    "without calling it, so that an adapter there has no effect: choose others by "
                    "`modules`, or write the block with layers that are called"
                )


def _put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of a part of a model; return the model."""
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model


# ---- what averaging factors loses


def mean_adapter(
    factors_b: Sequence[Tensor], factors_a: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Return the weighted mean of ``B_k A_k``, which averaging should give.

    Args:
        factors_b: Shape ``(out, rank)`` each; ranks may differ.
        factors_a: Shape ``(rank, in)`` each.
        weights: One for each client; they need not sum to 1.

    Returns:
        Shape ``(out, in)``.
    """
    stacked_b, stacked_a = stacked_adapters(factors_b, factors_a, weights)
    return stacked_b @ stacked_a


def averaged_adapter(
    factors_b: Sequence[Tensor], factors_a: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Return ``mean(B) mean(A)``, which FedIT gives in its place; see `mean_adapter`."""
    return _mean(factors_b, weights) @ _mean(factors_a, weights)


def averaging_error(
    factors_b: Sequence[Tensor], factors_a: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Return ``mean(B A) - mean(B) mean(A)``, which FedIT loses; see `mean_adapter`.

    Adding it (times ``alpha / rank``) to the frozen weights would make the average exact, as in
    R. Singhal et al., "FedEx-LoRA", ACL 2025.
    """
    exact = mean_adapter(factors_b, factors_a, weights)
    return exact - averaged_adapter(factors_b, factors_a, weights)


def stacked_adapters(
    factors_b: Sequence[Tensor], factors_a: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return factors of the exact mean: weighted B side by side, A one above the other.

    Their rank is the sum of all ranks, as in Z. Wang et al., "FLoRA: Federated Fine-Tuning Large
    Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024.

    Returns:
        Shapes ``(out, sum of ranks)`` and ``(sum of ranks, in)``.
    """
    scaled = [p * b for p, b in zip(_shares(weights, factors_b), factors_b, strict=True)]
    return torch.cat(scaled, dim=-1), torch.cat(list(factors_a), dim=-2)


def _mean(factors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    parts = [p * f for p, f in zip(_shares(weights, factors), factors, strict=True)]
    return torch.stack(parts).sum(dim=0)


def _shares(weights: Sequence[float], factors: Sequence[Tensor]) -> list[float]:
    """Return the weights over their sum.

    Raises:
        ValueError: There is not one for each client, or one is below 0, or all are 0.
    """
    total = sum(weights)
    if len(weights) != len(factors) or min(weights, default=0) < 0 or not total > 0:
        raise ValueError(
            f"the weights {list(weights)} do not go with {len(factors)} factors: give each client "
            "one of at least 0, and one of them more"
        )
    return [weight / total for weight in weights]
