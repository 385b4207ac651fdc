"""What every solver asks of its arguments."""

from morphkit.interfaces import OTSolver


def check_entropic(solver: OTSolver, epsilon: float, tau_x: float, tau_y: float) -> None:
    """Raises ValueError, naming the argument, unless ε > 0 and 0 < τ ≤ 1 (Eq. 28)."""
    name = type(solver).__name__
    if not epsilon > 0:
        raise ValueError(f"{name}.epsilon = {epsilon} must be positive")
    for side, tau in (("tau_x", tau_x), ("tau_y", tau_y)):
        if not 0 < tau <= 1:
            raise ValueError(
                f"{name}.{side} = {tau} must be in (0, 1]: 1 keeps the marginal exactly, "
                "smaller values let the solver leave points out (Eq. 28)"
            )


def check_alpha(solver: OTSolver, alpha: float) -> None:
    """Raises ValueError unless 0 < α ≤ 1 (Eq. 3)."""
    if not 0 < alpha <= 1:
        raise ValueError(
            f"{type(solver).__name__}.alpha = {alpha} must be in (0, 1]; "
            "for α = 0 use solver.Sinkhorn"
        )
