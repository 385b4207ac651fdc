"""The public names of `morphkit.transport.geometry`, for plugins."""

from .transport.geometry import *  # noqa: F403
