"""How good a map is, by the targets of source points that it was not told of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

WIDTH = np.log(4)
"""The standard deviation of log T about what it is before any pair was seen."""

SPREADS = 3.0
"""1 / T before any pair was seen, of logits that are no probabilities, over their spread."""


class Answers(NamedTuple):
    """What a map says of k held-out source points.

    `logits` (k, c) tell the c distinct targets apart, up to a temperature and a constant of each
    row, and are logarithms of probabilities where `expected` is None. `partners` (k, c) is True for
    the targets that are right, at least one a row; `targets` (c, q) are the targets. `expected`
    (k, q) are the map's own point estimates; None where the mean of its posterior is that. `other`
    (k, q) are other point estimates that could take the place of that mean. `hidden` (k, c) are
    targets that this mean may not use: those that a new point would not find in the cloud. With
    `labels` (c,) of the targets, all of the right label are partners.
    """

    logits: Float[np.ndarray, "k c"]
    partners: Bool[np.ndarray, "k c"]
    targets: Float[np.ndarray, "c q"]
    expected: Float[np.ndarray, "k q"] | None = None
    other: Float[np.ndarray, "k q"] | None = None
    hidden: Bool[np.ndarray, "k c"] | None = None
    labels: Int[np.ndarray, " c"] | None = None


class Verdict(NamedTuple):
    """What `judge` finds. `temperature` is T of the posterior softmax(logits / T), the most
    probable one; `log_posterior` (k,) that of the partners, in nats, for each held-out point;
    `hits` (k,) is 1 where its best target is a partner, ties at chance, and `r2` the share of the
    partners' variance that the point estimates explain (of several partners, of their mean; NaN
    where they do not vary), `other_r2` that of `Answers.other`; `variance` is theirs, the mean over
    coordinates. `confidence` is the mean
    probability of the best target, or of its label: `recall_at_1`, if the posterior is
    calibrated."""

    temperature: float
    log_posterior: Float[np.ndarray, " k"]
    hits: Float[np.ndarray, " k"]
    r2: float
    other_r2: float = float("nan")
    confidence: float = float("nan")
    variance: float = float("nan")

    @property
    def residual(self) -> float:
        """The root mean square, per coordinate, of what the better point estimate leaves over; NaN
        where the partners do not vary."""
        return float(np.sqrt(self.variance * (1 - np.fmax(self.r2, self.other_r2))))

    @property
    def probability(self) -> Float[np.ndarray, " k"]:
        """That of the partners, for each held-out point."""
        return np.exp(self.log_posterior)

    @property
    def recall_at_1(self) -> float:
        """The share of `hits`."""
        return float(self.hits.mean())


def judge(parts: Sequence[Answers]) -> Verdict:
    """The verdict on a map by its answers to `parts` of the known pairs, each fitted to the others.

    One temperature for all: the most probable one, by the held-out points and a log-normal prior of
    WIDTH around 1 or, for logits that are no probabilities, around their spread over SPREADS. A
    map that is right about a handful of points is not taken for infallible so.
    """
    count = sum(len(part.logits) for part in parts)
    spread = float(np.mean([np.std(part.logits, axis=1).mean() for part in parts])) or 1.0
    start = 0.0 if parts[0].expected is None else np.log(SPREADS / spread)

    def posterior(log_inverse: float) -> list[np.ndarray]:
        return [_log_posterior(part, np.exp(log_inverse)) for part in parts]

    def loss(log_inverse: float) -> float:
        away = (log_inverse - start) / WIDTH
        return float(away**2 / 2 / count - np.concatenate(posterior(log_inverse)).mean())

    bounds = (start - 5 * WIDTH, start + 5 * WIDTH)
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    inverse = float(np.exp(found.x))
    hits = np.concatenate([_hits(part) for part in parts])
    wanted = np.concatenate([_mean(part.partners, part.targets) for part in parts])
    given = np.concatenate([
        _softmax_mean(part, inverse) if part.expected is None else part.expected for part in parts
    ])  # fmt: skip
    variance = np.sum((wanted - wanted.mean(0)) ** 2)

    def r2(given: np.ndarray) -> float:
        return float(1 - np.sum((given - wanted) ** 2) / variance) if variance > 0 else float("nan")

    others = [part.other for part in parts if part.other is not None]
    best = [_confidence(part, inverse) for part in parts]
    return Verdict(
        1 / inverse, np.concatenate(posterior(found.x)), hits, r2(given),
        r2(np.concatenate(others)) if others else float("nan"), float(np.concatenate(best).mean()),
        float(variance / wanted.size),
    )  # fmt: skip


def _log_posterior(part: Answers, inverse: float) -> Float[np.ndarray, " k"]:
    log = log_softmax(inverse * part.logits, axis=1)
    return np.asarray(logsumexp(np.where(part.partners, log, -np.inf), axis=1))


def _hits(part: Answers) -> Float[np.ndarray, " k"]:
    best = part.logits == part.logits.max(1, keepdims=True)
    return (best & part.partners).sum(1) / best.sum(1)


def _confidence(part: Answers, inverse: float) -> Float[np.ndarray, " k"]:
    posterior = np.exp(log_softmax(inverse * part.logits, axis=1))
    if part.labels is None:
        return posterior.max(1)
    label = part.labels[posterior.argmax(1)]
    return np.where(label[:, None] == part.labels, posterior, 0).sum(1)


def _softmax_mean(part: Answers, inverse: float) -> Float[np.ndarray, "k q"]:
    logits = inverse * part.logits
    if part.hidden is not None and not part.hidden.all(1).any():
        logits = np.where(part.hidden, -np.inf, logits)
    return np.exp(log_softmax(logits, axis=1)) @ part.targets


def _mean(partners: Bool[np.ndarray, "k c"], targets: Float[np.ndarray, "c q"]) -> np.ndarray:
    return partners @ targets / partners.sum(1, keepdims=True)
