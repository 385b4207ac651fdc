"""Pretrained extractors against transformers and sentence-transformers called directly, on small
randomly initialised checkpoints that transformers saved, and on the real MiniLM."""

import jax
import numpy as np
import pytest
import torch
import transformers
from conftest import DATA, needs
from morphkit_extractors.hub import EfficientNet, MiniLM, ViT
from morphkit_extractors.pretrained import layers, non_linearities
from PIL import Image

from morphkit.cli import main

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("efficientnet")
    torch.manual_seed(0)
    config = transformers.EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, image_size=32
    )
    transformers.EfficientNetModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.EfficientNetImageProcessor(size=size).save_pretrained(folder)
    return str(folder)


def direct(folder: str, images: np.ndarray):
    network = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return network, processor(list(images), return_tensors="pt")["pixel_values"]


def test_vit_gives_what_transformers_gives(vit, images):
    network, pixels = direct(vit, images)
    with torch.no_grad():
        out = network(pixels)
    expected = {
        "class": out.last_hidden_state[:, 0],
        "mean": out.last_hidden_state[:, 1:].mean(1),
        "pooler": out.pooler_output,
    }
    for pooling, values in expected.items():
        extractor = ViT((40, 48, 3), vit, pooling, batch_size=2, key=KEY)
        np.testing.assert_allclose(extractor.encode(images, key=KEY), values, atol=1e-5)


def test_pixels_floats_and_files_are_one_image(vit, images, tmp_path):
    extractor = ViT((40, 48, 3), vit, key=KEY)
    expected = extractor.encode(images, key=KEY)
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    paths = np.array([str(tmp_path / f"{k}.png") for k in range(len(images))])
    for inputs in (images / 255, paths):
        np.testing.assert_allclose(extractor.encode(inputs, key=KEY), expected, atol=1e-5)


def test_every_activation_is_what_a_hook_sees(efficientnet, images):
    network, pixels = direct(efficientnet, images)
    names = non_linearities(network)
    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, given, out, name=name: seen.__setitem__(name, out) if name in names else None
        )
    with torch.no_grad():
        network(pixels)
    assert {"embeddings.activation", "encoder.top_activation"} < set(names)
    assert sum("depthwise_act" in name for name in names) == len(network.encoder.blocks)
    extractor = EfficientNet((40, 48, 3), efficientnet, names, batch_size=2, key=KEY)
    captured = extractor.captured(images)
    assert tuple(captured) == names
    for name, values in captured.items():
        expected = seen[name].flatten(1)
        np.testing.assert_allclose(values, expected, atol=1e-4 * float(expected.abs().max()))
    both = EfficientNet((40, 48, 3), efficientnet, names[-2:], "mean", key=KEY)
    expected = torch.cat([seen[name].mean((2, 3)) for name in names[-2:]], 1)
    np.testing.assert_allclose(both.encode(images, key=KEY), expected, atol=1e-4)


def test_layers_of_the_paper_are_at_the_ends_of_stages(efficientnet, vit, images):
    """The channels of App. G.3.1's network change from a stage to the next."""
    config = transformers.EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0)
    with torch.device("meta"):
        network = transformers.EfficientNetModel(config)
    *stages, top = layers(network).items()
    assert top == ("features", "encoder.top_activation")
    found = [int(module.split(".")[2]) for _, module in stages]
    channels = [block.projection.project_conv.out_channels for block in network.encoder.blocks]
    changes = [k for k in range(len(channels) - 1) if channels[k] != channels[k + 1]]
    assert found == [*changes, len(channels) - 1]
    assert [name for name, _ in stages] == [f"layer {k}" for k in range(1, 8)]
    assert set(layers(network).values()) <= set(non_linearities(network))
    assert layers(direct(vit, images)[0]) == {}
    names = "layer 2", "features"
    own = EfficientNet((40, 48, 3), efficientnet, names, "mean", key=KEY)
    modules = [layers(direct(efficientnet, images)[0])[name] for name in names]
    same = EfficientNet((40, 48, 3), efficientnet, tuple(modules), "mean", key=KEY)
    assert tuple(own.captured(images)) == names
    np.testing.assert_array_equal(own.encode(images, key=KEY), same.encode(images, key=KEY))


def test_show_lists_the_activations(capsys):
    assert main(["show", "extractor.EfficientNet"]) == 0
    out = capsys.readouterr().out
    assert "  embeddings.activation\n" in out
    assert "  encoder.blocks.15.depthwise_conv.depthwise_act (layer 7)\n" in out


def test_minilm_gives_what_transformers_gives(minilm):
    texts = ["a photo of a goldfish", "a red bus"]
    tokens = transformers.AutoTokenizer.from_pretrained(minilm)(
        texts, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = transformers.AutoModel.from_pretrained(minilm).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    expected = torch.nn.functional.normalize((out * mask).sum(1) / mask.sum(1))
    extractor = MiniLM((), minilm, prompt="a {}", key=KEY)
    values = extractor.encode(np.array(["photo of a goldfish", "red bus"]), key=KEY)
    np.testing.assert_allclose(values, expected, atol=1e-5)


@needs("tiny_imagenet")
def test_minilm_gives_the_text_features_of_tiny_imagenet(minilm):
    with np.load(DATA / "tiny_imagenet" / "tiny_imagenet.npz") as file:
        names, expected = file["class_name"], file["text_features"]
    extractor = MiniLM((), minilm, key=KEY)
    np.testing.assert_allclose(extractor.encode(names, key=KEY), expected, atol=1e-4)


def test_a_model_that_is_not_there_says_what_to_put_where(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    extractor = ViT((8, 8, 3), "nobody/nothing", key=KEY)
    with pytest.raises(FileNotFoundError, match=r"ViT.model = 'nobody/nothing'.*preprocessor_con"):
        extractor.encode(np.zeros((1, 8, 8, 3), np.uint8), key=KEY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "ViT.pooling"),
        ({"batch_size": 0}, "ViT.batch_size"),
        ({"dtype": "int8"}, "ViT.dtype"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViT((8, 8, 3), key=KEY, **arguments)


def test_wrong_inputs_are_named(vit, efficientnet):
    with pytest.raises(ValueError, match=r"ViT: inputs is float.*neither paths"):
        ViT((3,), vit, key=KEY).encode(np.zeros((2, 3)), key=KEY)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        ViT((8, 8, 3), vit, key=KEY).encode(np.full((1, 8, 8, 3), 2.0), key=KEY)
    network = EfficientNet((8, 8, 3), efficientnet, ("encoder.nothing",), key=KEY)
    with pytest.raises(ValueError, match=r"'encoder\.nothing'.*encoder\.top_activation"):
        network.encode(np.zeros((1, 8, 8, 3), np.uint8), key=KEY)


def test_provenance_tells_weights_apart(vit, efficientnet):
    a = ViT((8, 8, 3), vit, key=KEY).provenance()
    assert a == ViT((8, 8, 3), vit, "mean", key=KEY).provenance()
    assert a["weights"] != EfficientNet((8, 8, 3), efficientnet, key=KEY).provenance()["weights"]
