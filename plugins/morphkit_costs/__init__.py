"""First-party fused costs."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge import BridgeCost
    from .canonical import CanonicalCost
    from .geodesic import GeodesicBridgeCost
    from .kcca import KCCACost
    from .knn import KNNCost
    from .teacher import TeacherCost

    for cost in (BridgeCost, CanonicalCost, GeodesicBridgeCost, KCCACost, KNNCost, TeacherCost):
        registry.add(cost)
