"""What one would do without a morph: lookups, linear maps and classifiers."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .anchor import NearestAnchor
    from .classes import LabelSpreading, LogisticHead, NearestClassMean
    from .linear import PLS, Procrustes, Ridge

    registry.add(NearestAnchor)
    registry.add(Ridge)
    registry.add(Procrustes)
    registry.add(PLS)
    for classifier in (NearestClassMean, LogisticHead, LabelSpreading):
        registry.add(classifier)
