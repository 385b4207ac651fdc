"""First-party optimal transport solvers."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge_sinkhorn import BridgeSinkhorn
    from .gromov import FusedGromovWasserstein
    from .sinkhorn import Sinkhorn

    for solver in (BridgeSinkhorn, FusedGromovWasserstein, Sinkhorn):
        registry.add(solver)
