"""What every solver asks of its arguments."""


def check_entropic(solver: str, epsilon: float, tau_x: float, tau_y: float) -> None:
    """Raises ValueError, naming the argument, unless ε > 0 and 0 < τ ≤ 1 (Eq. 28)."""
    if not epsilon > 0:
        raise ValueError(f"{solver}.epsilon = {epsilon} must be positive")
    for name, tau in (("tau_x", tau_x), ("tau_y", tau_y)):
        if not 0 < tau <= 1:
            raise ValueError(
                f"{solver}.{name} = {tau} must be in (0, 1]: 1 keeps the marginal exactly, "
                "smaller values let the solver leave points out (Eq. 28)"
            )
