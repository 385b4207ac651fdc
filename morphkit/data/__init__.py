"""Data sets: embedded digits and Swiss roll, MNIST, and anybody's own arrays."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .arrays import Arrays
    from .digits import Digits
    from .mnist import MNIST
    from .swiss_roll import SwissRoll

    registry.add(Arrays)
    registry.add(Digits)
    registry.add(MNIST)
    registry.add(SwissRoll)
