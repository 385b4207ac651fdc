"""The registry, for plugins: `from morphkit.registry import registry`."""

from .wiring.registry import Component, Registry, registry

__all__ = ["Component", "Registry", "registry"]
