"""Which plugin packages are installed, read from metadata alone: imports none of them."""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass

GROUP = "morphkit"
FIRST_PARTY = "morphkit-align"


@dataclass(frozen=True)
class Plugin:
    """One `entry_point` of the group `morphkit`, of a `distribution` and its `version`; `enabled`
    unless MORPHKIT_PLUGINS leaves it out."""

    entry_point: importlib.metadata.EntryPoint
    distribution: str
    version: str
    enabled: bool

    @property
    def name(self) -> str:
        return f"{self.distribution}:{self.entry_point.name}"

    @property
    def state(self) -> str:
        if not self.enabled:
            return "disabled by MORPHKIT_PLUGINS"
        package = self.entry_point.module.partition(".")[0]
        found = importlib.util.find_spec(package) is not None
        return "installed" if found else f"broken: no module {package!r}"


def installed_plugins() -> list[Plugin]:
    """All plugins, first-party ones first, then by name.

    The environment variable MORPHKIT_PLUGINS, if set, is a comma-separated list of the
    third-party distributions to enable ("" enables none); first-party families always are.
    """
    chosen = os.environ.get("MORPHKIT_PLUGINS")
    allowed = None if chosen is None else {name.strip() for name in chosen.split(",")}
    plugins = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        distribution = entry_point.dist.name if entry_point.dist else "unknown"
        version = entry_point.dist.version if entry_point.dist else "unknown"
        first_party = distribution == FIRST_PARTY
        enabled = first_party or allowed is None or distribution in allowed
        plugin = Plugin(entry_point, distribution, version, enabled)
        plugins[plugin.name] = plugin
    return sorted(plugins.values(), key=lambda p: (p.distribution != FIRST_PARTY, p.name))
