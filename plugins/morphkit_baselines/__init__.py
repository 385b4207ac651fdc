"""What one would do without a morph: lookups, linear maps and classifiers, tuned on the pairs."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .anchor import NearestAnchor
    from .average import Average
    from .cca import RidgeCCA
    from .classes import LogisticHead, NearestClassMean, ShrinkageLDA
    from .generative import VAE, FusedLatentVAE, FusedVAE
    from .linear import PLS, Procrustes, Ridge
    from .relative import RelativeRepresentation
    from .spreading import LabelSpreading

    for lookup in (NearestAnchor, RelativeRepresentation):
        registry.add(lookup)
    for linear in (Ridge, PLS, Procrustes, RidgeCCA, Average):
        registry.add(linear)
    for generative in (VAE, FusedVAE, FusedLatentVAE):
        registry.add(generative)
    for classifier in (NearestClassMean, ShrinkageLDA, LogisticHead, LabelSpreading):
        registry.add(classifier)
