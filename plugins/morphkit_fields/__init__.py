"""Velocity fields v_θ(t, y | x) of App. E: the plain `MLP` and the adaptive-norm `AdaLN`."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .adaln import AdaLN
    from .mlp import MLP

    registry.add(MLP)
    registry.add(AdaLN)
