"""The figures in a folder of `morphkit paper`, as sections of a dashboard."""

from pathlib import Path

from ..folder import SweepFolder
from ..report.dashboard import Part
from .bridges import FIGURES
from .index import Told, headed, read_told


def parts(out: Path) -> list[Part]:
    """A section for each figure in the folder `out`, in the order of the paper, of all its sweeps
    that are there, with the paper's claim and what was found; empty where no figure is. Raises
    ValueError for a file that is damaged, or of a figure that there is not."""
    return [_part(out, told) for told in read_told(out)]


def _part(out: Path, told: Told) -> Part:
    if (figure := FIGURES.get(told.figure)) is None:
        raise ValueError(f"{out} has a file of figure {told.figure}, which there is not; remove it")
    title, text = headed(told)
    if figure.searches:
        return Part(title, [], [*text, "Its runs are searches, which are not logged to W&B."])
    sweeps = [out / file for file in figure.files if SweepFolder(out / file).runs]
    return Part(title, sweeps, text if sweeps else [*text, "Its sweeps are not in the folder."])
