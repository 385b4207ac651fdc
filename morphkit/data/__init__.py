"""Data sets: embedded digits, MNIST, and anybody's own arrays."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .arrays import Arrays
    from .digits import Digits
    from .mnist import MNIST

    registry.add(Arrays)
    registry.add(Digits)
    registry.add(MNIST)
