"""What every solver asks of its arguments."""

from morphkit.interfaces import OTSolver


def check_entropic(
    solver: OTSolver, epsilon: float, tau_x: float, tau_y: float, halvings: int = 0
) -> None:
    """Raises ValueError, naming the argument, unless ε > 0, 0 < τ ≤ 1 (Eq. 28), halvings ≥ 0."""
    name = type(solver).__name__
    if halvings < 0:
        raise ValueError(f"{name}.halvings = {halvings} must not be negative; 0 does not anneal")
    if not epsilon > 0:
        raise ValueError(f"{name}.epsilon = {epsilon} must be positive")
    for side, tau in (("tau_x", tau_x), ("tau_y", tau_y)):
        if not 0 < tau <= 1:
            raise ValueError(
                f"{name}.{side} = {tau} must be in (0, 1]: 1 keeps the marginal exactly, "
                "smaller values let the solver leave points out (Eq. 28)"
            )


def check_rank(solver: OTSolver, rank: int, epsilon: float, tau_x: float, tau_y: float) -> None:
    """Raises ValueError, naming the argument, unless rank ≥ 1, ε ≥ 0, 0 < τ ≤ 1 (Eq. 28)."""
    name = type(solver).__name__
    if rank < 1:
        raise ValueError(f"{name}.rank = {rank} must be at least 1")
    if epsilon < 0:
        raise ValueError(f"{name}.epsilon = {epsilon} must not be negative")
    check_entropic(solver, epsilon or 1.0, tau_x, tau_y)


def check_alpha(solver: OTSolver, alpha: float) -> None:
    """Raises ValueError unless 0 < α ≤ 1 (Eq. 3)."""
    if not 0 < alpha <= 1:
        raise ValueError(
            f"{type(solver).__name__}.alpha = {alpha} must be in (0, 1]; "
            "for α = 0 use solver.Sinkhorn"
        )
