"""First-party alignment strategies (Sec. 3.2)."""

from morphkit import hookimpl


@hookimpl
def morphkit_register(registry) -> None:
    from .aligners import GlobalAlignment, LocalAlignment, TrueAlignment
    from .refined import RefinedAlignment

    for aligner in (TrueAlignment, GlobalAlignment, LocalAlignment, RefinedAlignment):
        registry.add(aligner)
