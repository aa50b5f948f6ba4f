"""Members that start as slices of one trained network: of every layer some channels, the same wherever they meet.

A trace of the network (torch.fx) says which tensors share their channels: those that are added or multiplied, and the
two sides of a batch norm, an activation, a pooling, a depthwise or grouped convolution. Each such set of tensors is a
*space*. Its channels are kept or dropped one at a time, or by group where a grouped convolution reads or writes them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from divdet.engine.cost import on_meta
from divdet.engine.errors import UserError

Axes = dict[str, tuple[int | None, ...]]  # of a tensor's first dimensions, the space in which each lies

_Norm = nn.modules.batchnorm._BatchNorm
_LAYERS = (nn.Conv2d, nn.Linear, _Norm)
_MIXING = ("cat", "stack", "chunk", "split", "tensor_split", "permute", "transpose", "pad", "unbind")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _LAYERS) or super().is_leaf_module(module, name)


class _Spaces:
    """Sets of tensors that share their channels, and into how many parts those fall that stay together."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.parts: list[int] = []

    def new(self, channels: int) -> int:
        self.parent.append(len(self.parent))
        self.parts.append(channels)
        return len(self.parent) - 1

    def find(self, space: int) -> int:
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def join(self, spaces: Sequence[int], parts: int | None = None) -> int:
        roots = sorted({self.find(space) for space in spaces})
        fewest = math.gcd(*(self.parts[root] for root in roots), parts or 0)
        for root in roots:
            self.parent[root] = roots[0]
        self.parts[roots[0]] = fewest
        return roots[0]


def channel_axes(network: nn.Module, size: int, name: str) -> tuple[Axes, dict[int, int], set[int]]:
    """Finds the spaces of a network.

    Returns:
        For every tensor of its state the spaces of its dimensions; of each space the number of its parts; and the
        spaces of the network's own input and output.

    Raises:
        UserError: with ``name``, for layers that join or rearrange channels, as DenseNet's.
    """
    refusal = f"{name} cannot be divided by its channels: "
    network = on_meta(network).float().eval()
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # whatever a network's own code does with values that are only traced
        raise UserError(f"{refusal}torch.fx cannot trace it ({type(error).__name__})") from error
    ShapeProp(fx.GraphModule(network, graph)).propagate(torch.empty(1, 3, size, size, device="meta"))
    layers, spaces, axes = dict(network.named_modules()), _Spaces(), {}
    at: dict[fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [one for one in node.all_input_nodes if one in at]
        shape = getattr(node.meta.get("tensor_meta"), "shape", None)
        layer = layers.get(node.target) if node.op == "call_module" else None
        if node.op == "placeholder" and shape is not None:
            at[node] = spaces.new(shape[1])
        elif node.op == "output":
            ends = {spaces.find(at[one]) for one in (graph.find_nodes(op="placeholder")[0], *inputs)}
        elif isinstance(layer, _LAYERS) and any(key.startswith(f"{node.target}.") for key in axes):
            raise UserError(f"{refusal}it runs {node.target} twice")
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            groups = getattr(layer, "groups", 1)
            at[node] = spaces.new(shape[1])
            if groups > 1:
                at[node] = spaces.join([at[node], at[inputs[0]]], groups)
            axes[f"{node.target}.weight"] = (at[node], None if groups > 1 else at[inputs[0]])
            axes[f"{node.target}.bias"] = (at[node],)
        elif isinstance(layer, _Norm):
            at[node] = at[inputs[0]]
            axes |= {f"{node.target}.{key}": (at[node],) for key in ("weight", "bias", "running_mean", "running_var")}
        elif inputs:
            what = type(layer).__name__ if layer else getattr(node.target, "__name__", str(node.target))
            if what in _MIXING:
                raise UserError(f"{refusal}its operation {what} joins, splits or moves channels")
            if len({one.meta["tensor_meta"].shape[1] for one in inputs}) > 1:
                raise UserError(f"{refusal}its operation {what} takes tensors of different channels")
            if shape is not None:
                at[node] = spaces.join([at[one] for one in inputs])
    state = network.state_dict()
    for key in state.keys() - axes.keys():
        if not key.endswith("num_batches_tracked"):
            raise UserError(f"{refusal}{key} is not of a convolution, a linear layer or a batch norm")
    found = {key: tuple(s if s is None else spaces.find(s) for s in own) for key, own in axes.items() if key in state}
    parts = {space: spaces.parts[space] for own in found.values() for space in own if space is not None}
    return found, parts, ends


def importance(weights: Mapping[str, Tensor], axes: Axes, parts: Mapping[int, int]) -> dict[int, Tensor]:
    """Of each part of each space: the batch norms' |γ|, times the L2 norm of the weights that read it.

    Both are summed over the space's layers after division by the layer's mean, so that each layer counts alike.
    """
    written, read = ({space: torch.zeros(n) for space, n in parts.items()} for _ in range(2))
    for key, own in axes.items():
        value = weights[key].float()
        if len(own) == 1 and key.endswith(".weight"):
            norm = value.abs().unflatten(0, (parts[own[0]], -1)).mean(1)
            written[own[0]] += norm / norm.mean().clamp_min(1e-12)
        elif len(own) == 2:
            dim = 1 if own[1] is not None else 0  # grouped: a part reads what it writes
            norm = value.unflatten(dim, (parts[own[dim]], -1)).movedim(dim, 0).flatten(1).norm(dim=1)
            read[own[dim]] += norm / norm.mean().clamp_min(1e-12)
    ones = {space: torch.ones(n) for space, n in parts.items()}  # where a space has no batch norm, or no reader
    factors = [
        {space: found[space] if found[space].any() else ones[space] for space in parts} for found in (written, read)
    ]
    return {space: factors[0][space] * factors[1][space] for space in parts}


def deal(score: Tensor, kept: int, members: int, generator: torch.Generator) -> list[Tensor]:
    """Which ``kept`` of a space's parts each of S members gets, in their old order.

    The most important go to all members, the others once each, by importance in turn, so that every part has a member
    if there is room for all. (Of Tiny ImageNet, S=2, one further epoch: 23.1; with the same channels for both 22.7.)
    """
    order = score.argsort(descending=True, stable=True).tolist()
    shared = max(0, (members * kept - len(order)) // (members - 1)) if members > 1 else kept
    hands, left = [order[:shared] for _ in range(members)], order[shared:]
    while any(len(hand) < kept for hand in hands):
        for member in torch.randperm(members, generator=generator).tolist():
            hand = hands[member]
            if len(hand) < kept:  # when all are dealt, the most important that it lacks
                hand.append(left.pop(0) if left else next(part for part in order if part not in hand))
    return [torch.tensor(hand).sort().values for hand in hands]


def take(value: Tensor, own: Sequence[int | None], chosen: Mapping[int, Tensor], parts: Mapping[int, int]) -> Tensor:
    """The chosen channels of a tensor."""
    for dim, space in enumerate(own):
        if space is not None:
            value = value.unflatten(dim, (parts[space], -1)).index_select(dim, chosen[space]).flatten(dim, dim + 1)
    return value


def slices(
    network: nn.Module, members: Sequence[nn.Module], size: int, seed: int, name: str
) -> list[dict[str, Tensor]]:
    """Weights for each of ``members``: a slice of the trained ``network``, of which they are narrower forms.

    Raises:
        UserError: for a network that cannot be sliced, and members of another architecture.
    """
    weights = network.state_dict()
    axes, parts, _ = channel_axes(network, size, name)
    kept = _kept(weights, members[0].state_dict(), axes, parts, name)
    generator = torch.Generator().manual_seed(seed)
    scores = importance(weights, axes, parts)
    hands = {space: deal(scores[space], kept[space], len(members), generator) for space in sorted(parts)}
    return [
        {
            key: take(value, axes.get(key, ()), {space: hand[i] for space, hand in hands.items()}, parts).clone()
            for key, value in weights.items()
        }
        for i in range(len(members))
    ]


def narrow(network: nn.Module, divisor: int, size: int, name: str) -> nn.Module:
    """Divides a network's width by √``divisor``: of each space the first parts stay, all of its input and output.

    Raises:
        UserError: with ``name``, for a network whose channels cannot be told apart.
    """
    axes, parts, ends = channel_axes(network, size, name)
    chosen = {
        space: torch.arange(count if space in ends else max(1, round(count / divisor**0.5)))
        for space, count in parts.items()
    }
    for path, layer in network.named_modules():
        for key, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            own = axes.get(f"{path}.{key}", ())
            tensor.data = take(tensor.data, own, chosen, parts).clone(memory_format=torch.contiguous_format)
        match layer:
            case nn.Conv2d():
                if layer.groups > 1:  # whole groups stay
                    layer.groups = layer.groups * len(layer.weight) // layer.out_channels
                layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
            case nn.Linear():
                layer.out_features, layer.in_features = layer.weight.shape
            case _Norm():
                layer.num_features = len(layer.running_mean)
    return network


def _kept(
    weights: Mapping[str, Tensor], member: Mapping[str, Tensor], axes: Axes, parts: Mapping[int, int], name: str
) -> dict[int, int]:
    """The number of a member's parts in each space."""
    if odd := weights.keys() ^ member.keys():
        raise UserError(f"{name}: of it and its narrower members only one has {min(odd)}: choose another width or S")
    found: dict[int, dict[int, str]] = defaultdict(dict)  # by space, numbers of a member's parts, and who has them
    for key, own in axes.items():
        pairs = zip(weights[key].shape, member[key].shape, own, strict=False)  # a kernel's sides are in no space
        for large, small, space in pairs:
            if space is not None:
                count, rest = divmod(small, large // parts[space])
                found[space].setdefault(-1 if rest else count, key)
        if weights[key].shape[len(own) :] != member[key].shape[len(own) :]:
            raise UserError(f"{name}: {key} is {list(weights[key].shape)}, of a member {list(member[key].shape)}")
    for space, counts in found.items():
        if len(counts) > 1 or not 0 < min(counts) <= parts[space]:
            shapes = [f"{key} {list(member[key].shape)} of {list(weights[key].shape)}" for key in counts.values()]
            raise UserError(
                f"{name}: a member has {' and '.join(shapes)}, so no slice gives it the same channels wherever layers "
                "meet: choose another width or S"
            )
    return {space: next(iter(counts)) for space, counts in found.items()}
