"""Frozen torch models: loading, what to say when files are missing, images as they want them."""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import UInt8

from morphkit.extras import imported


@lru_cache(maxsize=2)
def vision(owner: str, model: str, device: str, dtype: str) -> tuple[Any, Any]:
    """The vision model `model` on `device`, in `dtype` and evaluation mode, and its own image
    processor. Raises ImportError and FileNotFoundError in the name of the extractor `owner`."""
    torch, transformers = imported(owner, "hf", "torch", "transformers")
    transformers.utils.logging.disable_progress_bar()

    def load() -> tuple[Any, Any]:
        network = transformers.AutoModel.from_pretrained(model, dtype=getattr(torch, dtype))
        return network, transformers.AutoImageProcessor.from_pretrained(model)

    files = "config.json, model.safetensors and preprocessor_config.json"
    network, processor = _found(owner, model, files, load)
    return network.to(device).eval(), processor


@lru_cache(maxsize=2)
def sentences(owner: str, model: str, device: str, dtype: str) -> Any:
    """The sentence-transformers pipeline `model` on `device` in `dtype`: tokenizer, transformer,
    pooling, normalisation. Raises as `vision`, in the name of `owner`."""
    torch, library = imported(owner, "hf", "torch", "sentence_transformers")

    def load() -> Any:
        arguments = {"dtype": getattr(torch, dtype)}
        return library.SentenceTransformer(model, device=device, model_kwargs=arguments)

    files = "all files of its repository (modules.json, config.json, the tokenizer's, weights)"
    return _found(owner, model, files, load).eval()


def _found(owner: str, model: str, files: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{owner}.model = {model!r} is neither a folder with a model of this kind, nor on the "
            f"Hugging Face hub or in its cache, as far as this machine can see. Offline, put "
            f"{files} into a folder, and bind {owner}.model to its path. ({_first(error)})"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=2)
def weights_fingerprint(network: Any) -> str:
    """A hash of the names and values of all parameters and buffers of `network`."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def images(owner: str, inputs: np.ndarray) -> list[UInt8[np.ndarray, "h w 3"]]:
    """RGB images from `inputs`: file paths (n,), or pixels (n, h, w, 1 or 3), uint8 or in [0, 1].

    Raises ValueError, in the name of the extractor `owner`, for anything else, and what Pillow
    raises for a file that is no image.
    """
    from PIL import Image

    if inputs.dtype.kind in "US" and inputs.ndim == 1:
        found = []
        for path in inputs:
            with Image.open(path) as image:
                found.append(np.asarray(image.convert("RGB")))
        return found
    if inputs.ndim != 4 or inputs.shape[3] not in (1, 3) or inputs.dtype.kind not in "uf":
        raise ValueError(
            f"{owner}: inputs is {inputs.dtype} of shape {inputs.shape}, neither paths (n,) nor "
            "images (n, h, w, 1 or 3) of uint8, or of floats in [0, 1]"
        )
    if inputs.dtype.kind == "f":
        if not (inputs.min() >= 0 and inputs.max() <= 1):
            raise ValueError(f"{owner}: inputs of floats must be in [0, 1]; divide pixels by 255")
        inputs = np.round(inputs * 255)
    return list(np.broadcast_to(inputs.astype(np.uint8), (*inputs.shape[:3], 3)))


def layers(network: Any) -> dict[str, str]:
    """The activations of `network`, an EfficientNet, by the names of App. G.3.1: "layer k" is that
    of the last depth-wise convolution of stage k, "features" that of the last convolution of all.
    The paper does not say where in a stage it looks. Empty for other networks."""
    repeats = getattr(network.config, "num_block_repeats", ())
    ends = accumulate(math.ceil(network.config.depth_coefficient * n) for n in repeats)
    found = {
        f"layer {stage}": f"encoder.blocks.{end - 1}.depthwise_conv.depthwise_act"
        for stage, end in enumerate(ends, 1)
    }
    return found | {"features": "encoder.top_activation"} if found else {}


@lru_cache(maxsize=2)
def non_linearities(network: Any) -> tuple[str, ...]:
    """Names of the activation modules of `network` that come after a convolution, in its order."""
    import torch

    places = "torch.nn.modules.activation", "transformers.activations"
    found, convolved = [], False
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
            convolved = True
        elif isinstance(module, torch.nn.Linear):
            convolved = False
        elif convolved and type(module).__module__ in places and not list(module.children()):
            found.append(name)
    return tuple(found)
