"""First-party fused costs."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge import BridgeCost

    registry.add(BridgeCost)
