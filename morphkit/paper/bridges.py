"""The figures of "Model alignment using inter-modal bridges" that are experiments."""

from . import clouds, image_text, recordings
from .figure import Figure

ALPHAS_MNIST = {"bridge": 0.5, "KNN": 0.25, "KCCA": 0.5}
ALPHAS_IMAGENET = {"bridge": 0.25, "KNN": 0.25, "KCCA": 0.5}
"""α of the fused solver in Fig. 6, by the name of the cost."""

NO_LARGE = "the large networks are left out"
FEW_AND_NARROW = "three seeds, and end-to-end baselines of a sixteenth of the paper's widths"
"""What two cores have no time for, see gin/papers/bridges/cpu.gin."""

_ACCURACY = "morph/nearest_target_accuracy"
_ALPHA_CLAIM = "Matching accuracy grows with the number of pairs, for every cost and α."

FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "4", "From noise to the space of texts",
            "Classes that do not overlap in the image space end apart in the text space; such as "
            "overlap there overlap here, too.",
            ("fig04",), clouds.noise_to_texts,
        ),
        Figure(
            "5A", "Accuracy and overlap, MNIST",
            "Accuracy declines as the features of images overlap more.",
            ("fig05a",), image_text.overlap("morph/test_accuracy"),
        ),
        Figure(
            "5B", "Accuracy and overlap, ImageNet",
            "Accuracy declines as the features of images overlap more.",
            ("fig05b",), image_text.overlap(_ACCURACY),
        ),
        Figure(
            "5C", "Overlap and the number of classes, ImageNet",
            "The overlap grows with the number of classes.",
            ("fig05b",), image_text.overlap_by_classes,
        ),
        Figure(
            "5D", "Classes with the highest overlap, ImageNet",
            "Several classes overlap much in the image space.",
            ("fig05b",), clouds.classes_that_overlap,
        ),
        Figure(
            "6A", "Matching accuracy by cost and solver, MNIST",
            "The bridge cost is above the KNN and the KCCA cost everywhere; fused is best.",
            ("fig06a", "fig06a_chosen"), image_text.matching(ALPHAS_MNIST, fused=True),
        ),
        Figure(
            "6B", "Matching accuracy by cost and solver, ImageNet",
            "The bridge cost is above the KNN and the KCCA cost everywhere; linear is best.",
            ("fig06b", "fig06b_chosen"), image_text.matching(ALPHAS_IMAGENET, fused=False),
        ),
        Figure(
            "7A", "Velocity fields, MNIST",
            "Every adaLN is above the MLP of as many parameters.",
            ("fig07a",), image_text.learning("test_accuracy"), reduced=NO_LARGE,
        ),
        Figure(
            "7B", "Velocity fields, ImageNet",
            "adaLN is above the MLP of as many parameters.",
            ("fig07b",), image_text.learning("nearest_target_accuracy"), reduced=NO_LARGE,
        ),
        Figure(
            "8", "Image to text, ImageNet",
            "Global alignment comes near the classifier on the image features (83.97 in the paper) "
            "at about 10 % of the pairs; local alignment does poorly.",
            ("fig08", "fig08_local"), image_text.classifier,
        ),
        Figure(
            "9A", "Image to text, MNIST",
            "Below 10 % of the pairs global and true alignment are above the baselines that are "
            "trained end to end; local alignment is far below.",
            ("fig09a",),
            image_text.downstream(
                "test_accuracy", ("global", "true"), image_text.END_TO_END,
                expected="expected_test_accuracy",
            ),
            reduced=FEW_AND_NARROW,
        ),
        Figure(
            "9B", "Text to image, MNIST",
            "With few pairs local and global alignment are better than all else.",
            ("fig09b",), image_text.downstream(
                "class_image_mse", ("global", "local"), (*image_text.END_TO_END, "true"),
                lower=True,
            ),
            reduced=FEW_AND_NARROW,
        ),
        Figure(
            "10A", "Prediction error, IT",
            "With more pairs the error of true alignment grows, and that of global falls.",
            ("fig10a",), recordings.prediction,
            needs=(
                "Recordings.path",
                "the recordings of Majaj et al. (2015): --set \"Recordings.path = 'FILE.nc'\" and, "
                "for the layers, --set \"LAYERS = ('STORE', …)\" and --set \"Recordings.pretrain = "
                "'STORE'\"",
            ),
        ),
        Figure(
            "10B", "Prediction error, V4",
            "With more pairs the error of true alignment grows, and that of global falls.",
            ("fig10b",), recordings.prediction,
        ),
        Figure(
            "11A", "Category decoding, IT",
            "Deeper layers tell more of the category.",
            ("fig11a",), recordings.decoding,
        ),
        Figure(
            "11B", "Category decoding, V4",
            "Deeper layers tell more of the category.",
            ("fig11b",), recordings.decoding,
        ),
        Figure(
            "12", "Iterations to 80 % accuracy, MNIST",
            "adaLN takes fewer iterations than the MLP.",
            ("fig07a",), image_text.iterations(0.8), reduced=NO_LARGE,
        ),
        Figure(
            "15", "From a Swiss roll to a spiral",
            "Local alignment maps noise to the spiral without a pair.",
            ("fig15",), clouds.roll_to_spiral,
        ),
        Figure(
            "16", "Seconds of a step, by alignment",
            "A step of local alignment takes much longer, the more so on ImageNet.",
            ("fig16a", "fig16b"), image_text.runtime,
        ),
        Figure(
            "17", "Matching accuracy by α, MNIST", _ALPHA_CLAIM,
            ("fig06a", "fig17"), image_text.by_alpha,
        ),
        Figure(
            "18", "Matching accuracy by α, ImageNet", _ALPHA_CLAIM,
            ("fig06b", "fig18"), image_text.by_alpha,
        ),
        Figure(
            "19", "aes as a regression predicts it, V4",
            "Ordinary least squares on ε, τ and the share of the pairs explains .909 of the aes.",
            ("fig20",), recordings.regression, searches=True,
        ),
        Figure(
            "20", "aes by τ, V4",
            "τ_X = τ_Y = .99 suits all shares of the pairs.",
            ("fig20",), recordings.taus, searches=True,
        ),
    )
}  # fmt: skip
