"""The members of a network that this process has; the others are in other processes."""

from torch import nn


class Elsewhere(nn.Module):
    """Stands in for a member that another process has: it has no weights and cannot be run."""


def present(members: nn.ModuleList) -> list[tuple[int, nn.Module]]:
    """Returns the members that this process has, with their numbers from 0."""
    return [(number, member) for number, member in enumerate(members) if not isinstance(member, Elsewhere)]
