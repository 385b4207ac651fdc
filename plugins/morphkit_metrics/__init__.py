"""The evaluators of App. H, one file per family."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .agreement import Agreement
    from .alignable import Alignability
    from .classes import LabelAccuracy, NearestTargetAccuracy
    from .densities import Densities
    from .draws import DrawScores
    from .expected import ExpectedValue
    from .features import FeatureOverlap, KNNAccuracy
    from .held_out import HeldOutPairs
    from .images import ClassImageMSE
    from .layers import RSA, EffectiveDimensionality, Predictivity
    from .matching import MatchingAccuracy
    from .neural import CategoryDecoding, NeuralPrediction, TargetDecoding
    from .pairs import PairedError
    from .retrieval import Retrieval, UnpairedRetrieval

    registry.add(LabelAccuracy)
    registry.add(NearestTargetAccuracy)
    registry.add(ClassImageMSE)
    registry.add(PairedError)
    registry.add(DrawScores)
    registry.add(Densities)
    registry.add(ExpectedValue)
    registry.add(MatchingAccuracy)
    registry.add(HeldOutPairs)
    registry.add(Retrieval)
    registry.add(UnpairedRetrieval)
    registry.add(Alignability)
    registry.add(Agreement)
    registry.add(FeatureOverlap)
    registry.add(KNNAccuracy)
    for neural in (NeuralPrediction, CategoryDecoding, TargetDecoding):
        registry.add(neural)
    for layer in (Predictivity, EffectiveDimensionality, RSA):
        registry.add(layer)
