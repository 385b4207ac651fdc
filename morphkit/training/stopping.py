"""Being asked to stop: not in the middle of a step, but where the state can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGTERM or SIGINT is only noted; yields whether it came.

    It is delivered on leaving, and a second one at once. One that is ignored, as SIGINT is by what
    a shell runs in the background, stays ignored. In threads but the main one, where signals
    never arrive, nothing is deferred.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:  # of one that was not set from Python
                signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        came.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
        if came:
            signal.raise_signal(came[0])
