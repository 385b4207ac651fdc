"""The real alignment problems that benchmarks share."""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np

from morphkit.data.imagenet import ImageNetFeatures
from morphkit.data.mnist import MNIST
from morphkit.features.extract import Features, features_of
from morphkit.loggers import Log
from morphkit.types import Cloud, PairedData, Pairs


def same_extractors() -> None:
    """Extractors come from benchmarks/cache, where MORPHKIT_CACHE names no other folder: the same
    training rounds differently on another machine and ends elsewhere, and the rows of a table are
    to be of the same latents."""
    os.environ.setdefault("MORPHKIT_CACHE", str(Path(__file__).parent / "cache"))


def mnist() -> Features:
    """The image and text VAE latents of gin/mnist/image_to_text.gin: 10,000 to learn from,
    10,000 to test on; see `same_extractors`."""
    from morphkit_extractors.vae import VAEImage, VAEText

    same_extractors()
    image = functools.partial(VAEImage, channels=(32, 64, 128), epochs=4, batch_size=64)
    with tempfile.TemporaryDirectory() as folder, Log(Path(folder), wandb="disabled") as log:
        return features_of(MNIST().load(), image, VAEText, log)  # pyright: ignore[reportArgumentType]


def mnist_clouds() -> tuple[Cloud, Cloud]:
    latents = mnist()
    return latents.x, latents.y


def tiny_imagenet_clouds() -> tuple[Cloud, Cloud]:
    """10,000 images of 200 classes by MobileNetV2, and the text of each one's class by MiniLM."""
    train = ImageNetFeatures().load().train
    x = Cloud.uniform(train.source, train.source_labels)  # pyright: ignore[reportArgumentType]
    return x, Cloud.uniform(train.target, train.target_labels)  # pyright: ignore[reportArgumentType]


def pair(x: Cloud, y: Cloud, number: int, seed: int) -> PairedData:
    """`number` known pairs (i, i) among points that correspond by their index; nested in
    `number`."""
    known = np.sort(np.random.default_rng(seed).permutation(x.size)[:number])
    return PairedData(x, y, Pairs.from_array(np.stack([known, known], 1)))
