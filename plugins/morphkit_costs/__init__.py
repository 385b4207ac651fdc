"""First-party fused costs."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge import BridgeCost
    from .geodesic import GeodesicBridgeCost
    from .kcca import KCCACost
    from .knn import KNNCost

    for cost in (BridgeCost, GeodesicBridgeCost, KCCACost, KNNCost):
        registry.add(cost)
