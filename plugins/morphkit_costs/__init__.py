"""First-party fused costs."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .bridge import BridgeCost
    from .canonical import CanonicalCost
    from .distribution import LocalDistributionCost
    from .geodesic import GeodesicBridgeCost
    from .kcca import KCCACost
    from .knn import KNNCost
    from .relative import RelativeCost
    from .teacher import TeacherCost
    from .total import SumCost

    for cost in (BridgeCost, GeodesicBridgeCost, KCCACost, KNNCost, RelativeCost, SumCost):
        registry.add(cost)
    for cost in (LocalDistributionCost, CanonicalCost, TeacherCost):
        registry.add(cost)
