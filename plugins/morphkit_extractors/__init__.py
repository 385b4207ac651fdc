"""Feature extractors: `Identity` and `PCA` for ready features, the VAEs of App. G.1.1, and models
of the Hugging Face hub."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .hub import EfficientNet, MiniLM, ViT
    from .identity import Identity
    from .pca import PCA
    from .vae import VAEImage, VAEText

    registry.add(EfficientNet)
    registry.add(Identity)
    registry.add(MiniLM)
    registry.add(PCA)
    registry.add(VAEImage)
    registry.add(VAEText)
    registry.add(ViT)
