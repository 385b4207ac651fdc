"""First-party optimal transport solvers."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge_sinkhorn import BridgeSinkhorn
    from .gromov import FusedGromovWasserstein
    from .sinkhorn import Sinkhorn
    from .through_ott import OTTFusedGromovWasserstein, OTTSinkhorn

    ours = BridgeSinkhorn, FusedGromovWasserstein, Sinkhorn
    for solver in (*ours, OTTFusedGromovWasserstein, OTTSinkhorn):
        registry.add(solver)
