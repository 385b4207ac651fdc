"""Data sets: embedded digits and Swiss roll, MNIST, features of ImageNet, anybody's own arrays."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .arrays import Arrays
    from .digits import Digits
    from .imagenet import ImageNetFeatures
    from .mnist import MNIST
    from .swiss_roll import SwissRoll

    registry.add(Arrays)
    registry.add(Digits)
    registry.add(ImageNetFeatures)
    registry.add(MNIST)
    registry.add(SwissRoll)
