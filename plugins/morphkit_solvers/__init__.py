"""First-party optimal transport solvers."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge_sinkhorn import BridgeSinkhorn
    from .gromov import FusedGromovWasserstein
    from .low_rank import LowRankGromovWasserstein, LowRankSinkhorn
    from .sinkhorn import Sinkhorn
    from .through_ott import OTTFusedGromovWasserstein, OTTSinkhorn

    ours = BridgeSinkhorn, FusedGromovWasserstein, Sinkhorn
    low_rank = LowRankGromovWasserstein, LowRankSinkhorn
    for solver in (*ours, *low_rank, OTTFusedGromovWasserstein, OTTSinkhorn):
        registry.add(solver)
