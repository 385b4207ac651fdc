"""Draws docs/architecture.png from the table of docs/architecture.md."""

import re
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).parent.parent / "docs"


def layers(imports: dict[str, set[str]]) -> dict[str, int]:
    """The height of each part: one above the highest of what it imports."""
    found: dict[str, int] = {}
    while len(found) < len(imports):
        for part, below in imports.items():
            if below <= set(found):
                found.setdefault(part, 1 + max((found[b] for b in below), default=-1))
    return found


def needed(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way stands for."""

    def reach(part: str) -> set[str]:
        return imports[part].union(*(reach(b) for b in imports[part]))

    return [
        (part, b)
        for part, below in imports.items()
        for b in below
        if not any(b in reach(other) for other in below - {b})
    ]


def main() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| (.*?)\|$", page, re.MULTILINE)
    imports = {name: set(re.findall(r"`([a-z_]+)`", cell)) for name, cell in rows}
    height = layers(imports)
    place = {}
    for level in range(max(height.values()) + 1):
        here = [part for part in imports if height[part] == level]
        for k, part in enumerate(here):
            place[part] = ((k + 0.5) / len(here) * 10, level)
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axis = figure.add_subplot()
    for part, below in needed(imports):
        axis.annotate(
            "", place[below], place[part],
            arrowprops={"arrowstyle": "->", "color": "#94a4a2", "shrinkA": 12, "shrinkB": 12},
        )  # fmt: skip
    for part, (x, y) in place.items():
        style = {"boxstyle": "round,pad=0.4", "facecolor": "#eaf3fb", "edgecolor": "#3f90da"}
        axis.text(x, y, part, ha="center", va="center", bbox=style, fontsize=10)
    axis.set(xlim=(-0.3, 10.3), ylim=(-0.5, max(height.values()) + 0.5))
    axis.axis("off")
    figure.savefig(DOCS / "architecture.png", dpi=120)


if __name__ == "__main__":
    main()
