"""What one would do without a morph: lookups and linear maps fitted on the pairs alone."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .anchor import NearestAnchor
    from .linear import Procrustes, Ridge

    registry.add(NearestAnchor)
    registry.add(Ridge)
    registry.add(Procrustes)
