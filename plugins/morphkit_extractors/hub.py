"""Vision and language models of the Hugging Face hub (Sec. 4 and App. G.2–G.3 of the paper)."""

from abc import abstractmethod
from typing import Any, Literal, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from morphkit.checks import Count
from morphkit.extras import imported
from morphkit.interfaces import FeatureExtractor, Tell, silent

from .pretrained import images, layers, non_linearities, sentences, vision, weights_fingerprint

Dtype = Literal["float32", "float16", "bfloat16"]
"""What a network computes in."""


class Pretrained(FeatureExtractor):
    """A frozen torch model, by its id on the Hugging Face hub or from a local folder.

    `model` is that id or folder. `batch_size` inputs, 1 or above, are encoded at a time; `device`
    is torch's name of where, "cpu" or "cuda"; `dtype` is what the network computes in, features
    are float32 whatever it is.
    """

    input_shape: tuple[int, ...] = eqx.field(static=True)
    model: str = eqx.field(static=True)
    batch_size: Count = eqx.field(static=True)
    device: str = eqx.field(static=True)
    dtype: Dtype = eqx.field(static=True)

    def __init__(
        self, input_shape: tuple[int, ...], model: str, batch_size: int, device: str, dtype: Dtype
    ):
        self.input_shape, self.model = tuple(input_shape), model
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    @abstractmethod
    def _encode(self, inputs: np.ndarray) -> dict[str, Any]:
        """Features of one batch, each a torch tensor (b, d), by name; in inference mode."""

    def fit(self, inputs: np.ndarray, *, key: PRNGKeyArray, tell: Tell = silent) -> Self:
        return self

    def encode(self, inputs: np.ndarray, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        return jnp.concatenate([jnp.asarray(v) for v in self.captured(inputs).values()], axis=1)

    def captured(self, inputs: np.ndarray) -> dict[str, Float[np.ndarray, "n d"]]:
        """What `encode` puts side by side for `inputs`, by name. Raises ValueError if there are
        none."""
        if len(inputs) == 0:
            raise ValueError(f"{type(self).__name__}: inputs is empty")
        (torch,) = imported(type(self).__name__, "hf", "torch")
        parts = []
        with torch.inference_mode():
            for start in range(0, len(inputs), self.batch_size):
                found = self._encode(inputs[start : start + self.batch_size])
                parts.append({name: value.float().cpu().numpy() for name, value in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _vision(self, inputs: np.ndarray) -> tuple[Any, Any]:
        """The network, and pixels as its own processor makes them of the inputs."""
        name = type(self).__name__
        network, processor = vision(name, self.model, self.device, self.dtype)
        pixels = processor(images(name, inputs), return_tensors="pt")["pixel_values"]
        return network, pixels.to(device=network.device, dtype=network.dtype)

    def provenance(self) -> dict[str, str]:
        network, processor = vision(type(self).__name__, self.model, self.device, self.dtype)
        preprocessing = processor.to_json_string()
        return {"weights": weights_fingerprint(network), "preprocessing": preprocessing}


class ViT(Pretrained):
    """Features of images by a vision transformer, f: images → (n, d) (Sec. 4, App. G.2.1).

    The last layer's class token (`pooling` "class", as in the paper), the mean of its patch
    tokens ("mean"), or what the model's own pooler makes of the class token ("pooler"); not
    normalised. Of a network with feature maps instead of tokens, "mean" is over positions, and
    there is no "class". `model` is an id on the Hugging Face hub, or a local folder; any vision
    model that transformers' AutoModel loads will do. Inputs are file paths (n,), or images
    (n, h, w, 1 or 3), uint8 or in [0, 1]; preprocessing is the model's own.

    The model is loaded when features are first asked for, in evaluation mode, onto `device`
    (torch's name, "cpu" or "cuda") and computes in `dtype`, `batch_size` images at a time; features
    are float32. Raises ImportError without the extra `hf`, FileNotFoundError for a model that is
    not there, and ValueError for inputs of another kind or a pooling that the model does not have.
    """

    pooling: Literal["class", "mean", "pooler"] = eqx.field(static=True)

    def __init__(
        self,
        input_shape: tuple[int, ...],
        model: str = "google/vit-base-patch16-224-in21k",
        pooling: Literal["class", "mean", "pooler"] = "class",
        batch_size: int = 32,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        key: PRNGKeyArray,
    ):
        super().__init__(input_shape, model, batch_size, device, dtype)
        self.pooling = pooling

    def _encode(self, inputs: np.ndarray) -> dict[str, Any]:
        network, pixels = self._vision(inputs)
        return {self.pooling: self._pooled(network(pixel_values=pixels))}

    def _pooled(self, out: Any) -> Any:
        hidden, maps = out.last_hidden_state, out.last_hidden_state.ndim == 4
        if self.pooling == "mean":
            return hidden.mean((2, 3)) if maps else hidden[:, 1:].mean(1)
        if self.pooling == "class" and not maps:
            return hidden[:, 0]
        pooled = getattr(out, "pooler_output", None)
        if self.pooling == "class" or pooled is None:
            raise ValueError(f"ViT.pooling = {self.pooling!r}, but {self.model} has none")
        return pooled.flatten(1)


class EfficientNet(Pretrained):
    """Intermediate activations of images in a convolutional network (Sec. 5.2, App. G.3.1).

    `activations` names non-linearities after convolutions, each captured where the network
    computes it (`morphkit show extractor.EfficientNet` lists the default model's); of an
    EfficientNet also as the paper does, which took layer 1, layer 2, layer 3, layer 5, layer 6 and
    features: see `morphkit_extractors.pretrained.layers`. `encode` gives
    them side by side, (n, d), by `pooling`: flattened, channels first ("flatten"), or their means
    over positions ("mean"); not normalised. `captured` gives each by its name. `model` is an id on
    the Hugging Face hub, or a local folder; any vision model that transformers' AutoModel loads
    will do. Inputs, errors, `batch_size`, `device` and `dtype` as with `ViT`.
    """

    activations: tuple[str, ...] = eqx.field(static=True)
    pooling: Literal["flatten", "mean"] = eqx.field(static=True)

    def __init__(
        self,
        input_shape: tuple[int, ...],
        model: str = "google/efficientnet-b0",
        activations: tuple[str, ...] = ("encoder.top_activation",),
        pooling: Literal["flatten", "mean"] = "flatten",
        batch_size: int = 32,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        key: PRNGKeyArray,
    ):
        super().__init__(input_shape, model, batch_size, device, dtype)
        if not activations:
            raise ValueError("EfficientNet.activations is empty; name at least one")
        self.activations, self.pooling = tuple(activations), pooling

    def _encode(self, inputs: np.ndarray) -> dict[str, Any]:
        network, pixels = self._vision(inputs)
        there, known = dict(network.named_modules()), non_linearities(network)
        short = layers(network)
        modules = {name: short.get(name, name) for name in self.activations}
        if unknown := [name for name, module in modules.items() if module not in known]:
            raise ValueError(
                f"EfficientNet.activations names {unknown[0]!r}, which is no non-linearity after a "
                f"convolution of {self.model}; it has {', '.join([*short, *known])}"
            )
        found: dict[str, Any] = {}

        def keep(name: str):
            return lambda module, given, out: found.__setitem__(name, out)

        hooks = [there[module].register_forward_hook(keep(n)) for n, module in modules.items()]
        try:
            network(pixel_values=pixels)
        finally:
            for hook in hooks:
                hook.remove()
        mean = self.pooling == "mean"
        return {n: found[n].mean((2, 3)) if mean else found[n].flatten(1) for n in self.activations}

    @classmethod
    def details(cls) -> str:
        """For `morphkit show`: the names of the default model's activations."""
        try:
            torch, transformers = imported("EfficientNet", "hf", "torch", "transformers")
        except ImportError as error:
            return f"({error}; then its activations are listed here)"
        config = transformers.EfficientNetConfig(
            width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=224
        )
        with torch.device("meta"):
            network = transformers.EfficientNetModel(config)
        short = {module: f" ({name})" for name, module in layers(network).items()}
        names = "\n".join(f"  {name}{short.get(name, '')}" for name in non_linearities(network))
        return f"activations of google/efficientnet-b0:\n{names}"


class MiniLM(Pretrained):
    """Sentence embeddings of texts, f: strings (n,) → (n, d) (Sec. 4, App. G.2.2).

    Each text is put into `prompt`, where "{}" is; for classes of images 'A photo of a {}'.
    Tokens, pooling and normalisation are the model's own (all-MiniLM-L6-v2: mean over tokens, unit
    norm). `model` is an id on the Hugging Face hub or a local folder, of any model that
    sentence-transformers loads; `batch_size`, `device` and `dtype` are as with `ViT`. Raises
    ImportError without the extra `hf`, FileNotFoundError for a model that is not there, and
    ValueError for a `prompt` without "{}" and inputs that are no strings.
    """

    prompt: str = eqx.field(static=True)

    def __init__(
        self,
        input_shape: tuple[int, ...] = (),
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        prompt: str = "A photo of a {}",
        batch_size: int = 64,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        key: PRNGKeyArray,
    ):
        super().__init__(input_shape, model, batch_size, device, dtype)
        if "{}" not in prompt:
            raise ValueError(f"MiniLM.prompt = {prompt!r} has no {{}} where the text goes")
        self.prompt = prompt

    def _encode(self, inputs: np.ndarray) -> dict[str, Any]:
        if inputs.dtype.kind not in "US" or inputs.ndim != 1:
            raise ValueError(
                f"MiniLM: inputs is {inputs.dtype} of shape {inputs.shape}, not strings (n,)"
            )
        pipeline = sentences("MiniLM", self.model, self.device, self.dtype)
        texts = [self.prompt.replace("{}", str(text)) for text in inputs]
        options = {"convert_to_tensor": True, "show_progress_bar": False}
        return {"text": pipeline.encode(texts, batch_size=self.batch_size, **options)}

    def provenance(self) -> dict[str, str]:
        pipeline = sentences("MiniLM", self.model, self.device, self.dtype)
        return {"weights": weights_fingerprint(pipeline), "preprocessing": str(pipeline)}
