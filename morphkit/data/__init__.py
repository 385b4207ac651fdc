"""Data sets: embedded digits and Swiss roll, MNIST, ImageNet's features, image files, feature
stores, neural recordings, anybody's own arrays."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from ..features.store import Stored
    from .arrays import Arrays
    from .classes import Clustered, SomeClasses
    from .digits import Digits
    from .imagenet import ImageNetFeatures
    from .images import Images
    from .mnist import MNIST
    from .population import Population
    from .recordings import Recordings
    from .swiss_roll import SwissRoll

    registry.add(Arrays)
    registry.add(Clustered)
    registry.add(Digits)
    registry.add(Images)
    registry.add(ImageNetFeatures)
    registry.add(MNIST)
    registry.add(Population)
    registry.add(Recordings)
    registry.add(SomeClasses)
    registry.add(Stored)
    registry.add(SwissRoll)
