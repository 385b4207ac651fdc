"""The one hook of morphkit: a plugin module defines `morphkit_register(registry)`."""

import pluggy

hookspec = pluggy.HookspecMarker("morphkit")
hookimpl = pluggy.HookimplMarker("morphkit")


@hookspec
def morphkit_register(registry) -> None:
    """Registers components with `registry`: call `registry.add(MyCost)` for each. The kind comes
    from the interface it implements, the name from the class."""
