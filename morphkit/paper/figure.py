"""What a figure is: the runs that it takes, what is made of them, and what the paper says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.figure import Figure as Picture

from ..experiment.search import Trial
from ..report.labels import Run
from .lines import Line

HEAD = ["panel", "line", "kind", "x", "mean", "deviation", "seeds"]
"""The first row of a table of lines."""


class Made(NamedTuple):
    """A figure as runs make it: the `picture`, the numbers behind it as `rows` of a table, the
    first being its head, whether the paper's claim `agrees` with them (None where they do not
    decide), and what was `found`, in a sentence; `lines` where it is made of such, else how many
    `seeds` it is of."""

    picture: Picture
    rows: list[list[Any]]
    agrees: bool | None
    found: str
    lines: Sequence[Line] = ()
    seeds: int = 1

    @classmethod
    def of(cls, picture: Picture, lines: Sequence[Line], agrees: bool | None, found: str) -> "Made":
        """What `picture` shows of `lines`, and what was `found` by them: whether the claim
        `agrees`."""
        rows: list[list[Any]] = [HEAD]
        for line in lines:
            for cell in zip(line.x, line.mean, line.deviation, line.seeds, strict=True):
                rows.append([line.panel, line.name, line.kind, *cell])
        return cls(picture, rows, agrees, found, lines)


@dataclass(frozen=True)
class Figure:
    """A figure of the paper by its `name`, such as "6A". `title` says what it shows, `claim` what
    the paper reads in it; `files` are the gin files of its sweeps in gin/papers/bridges, without
    their ending, and `make` makes it of their runs. Of a figure that `searches` each run of the
    sweep is a search, and `make` gets its trials by the run's name. `needs` is the
    binding that a user has to give, and what that is; None where nothing has to be given. `reduced`
    says what it has less of at scale cpu than others have there."""

    name: str
    title: str
    claim: str
    files: tuple[str, ...]
    make: Callable[[Any], Made]
    searches: bool = False
    needs: tuple[str, str] | None = None
    reduced: str = ""


Runs = Sequence[Run]
Trials = dict[str, list[Trial]]
