"""Feature extractors: `Identity` for ready features, the VAEs of App. G.1.1."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .identity import Identity
    from .vae import VAEImage, VAEText

    registry.add(Identity)
    registry.add(VAEImage)
    registry.add(VAEText)
