"""A recorded population, one half of it to the other: the category decoding of App. H.5 where the
stimuli themselves are not there."""

from pathlib import Path

import equinox as eqx
import numpy as np

from ..checks import Seed
from ..files import open_npz
from ..interfaces import Data
from ..types import Dataset, Split
from .arrays import data_folder
from .recordings import SHARES


class Population(Data):
    """From one half of the sites of a recorded population to the other half, trial by trial.

    The .npz file `path` (default: $MORPHKIT_DATA/it/zd7_it_rates.npz) has an array `rates` (sites,
    objects, positions, trials), spikes a second, NaN where a trial is missing, and `object_name`
    (objects,). Sites were recorded one after the other, so that a trial is one of each site by its
    number, and only its object and position are common to both halves; of every condition as many
    trials are taken as every site has. Classes are the objects. The halves, and 60 % of the trials
    of each condition that train and 20 % that test, are chosen by `seed` (the rest is for choosing
    settings); sites have mean 0 and variance 1 over the training trials. Raises FileNotFoundError
    if there is no such file, and ValueError if it does not hold what it should.
    """

    path: str | None = eqx.field(static=True, default=None)
    rates: str = eqx.field(static=True, default="rate_100_500ms")
    seed: Seed = eqx.field(static=True, default=0)

    def load(self) -> Dataset:
        file = Path(self.path or data_folder() / "it" / "zd7_it_rates.npz")
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no file {file}: Population.path names an .npz file with rates (sites, "
                "objects, positions, trials) and object_name"
            )
        with open_npz(file) as arrays:
            if missing := [n for n in (self.rates, "object_name") if n not in arrays]:
                raise ValueError(f"{file} has no array {missing[0]}, only {list(arrays)}")
            rates, names = arrays[self.rates].astype(np.float64), arrays["object_name"]
        if rates.ndim != 4 or len(names) != rates.shape[1] or len(rates) < 2:
            raise ValueError(
                f"{file}: {self.rates} is {rates.shape}, not (sites, {len(names)} objects, "
                "positions, trials) of two sites or more"
            )
        sites, objects, positions, _ = rates.shape
        known = np.isfinite(rates)
        trials = int(known.sum(-1).min())
        bounds = np.round(np.cumsum(SHARES) * trials).astype(int)
        if min(bounds[0], trials - bounds[1]) < 1:
            raise ValueError(f"{file}: some site has {trials} trials of a condition, too few")
        rng = np.random.default_rng(self.seed)
        # Finite trials first, in random order, for every site and condition by itself.
        order = np.argsort(np.where(known, rng.random(rates.shape), 2.0), axis=-1)[..., :trials]
        chosen = np.take_along_axis(rates, order, -1)
        rows = np.moveaxis(chosen, 0, -1)  # (objects, positions, trials, sites)
        first, second = np.array_split(rng.permutation(sites), 2)
        learned = rows[:, :, : bounds[0]].reshape(-1, sites)
        spread = np.where(np.ptp(learned, axis=0) > 0, learned.std(0), 1)
        rows = ((rows - learned.mean(0)) / spread).astype(np.float32)

        def split(part: slice) -> Split:
            found = rows[:, :, part]
            labels = np.repeat(np.arange(objects, dtype=np.int32), positions * found.shape[2])
            flat = found.reshape(-1, sites)
            pairs = np.stack([np.arange(len(flat))] * 2, 1)
            return Split(flat[:, first], flat[:, second], pairs, labels, labels)

        train, test = split(slice(bounds[0])), split(slice(bounds[1], trials))
        return Dataset("a population", None, train, test, tuple(map(str, names)))
