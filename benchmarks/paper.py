"""What `morphkit paper` made, for docs/reproduction.md.

`python benchmarks/paper.py [DIR]` copies numbers and their origins from DIR, by default
runs/paper/cpu, to benchmarks/results/paper, pictures to docs/paper, and writes results/paper.md of
all that is there.
"""

import shutil
import sys
from pathlib import Path

from morphkit.files import read_json
from morphkit.paper.bridges import FIGURES
from morphkit.paper.index import ANSWERS, REMEDY, Told, seeds_of

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "paper"
PICTURES = Path(__file__).parent.parent / "docs" / "paper"


def main() -> None:
    made = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/paper/cpu")
    for folder in (KEPT, PICTURES):
        folder.mkdir(parents=True, exist_ok=True)
    for told in made.glob("fig*.json"):
        for end, folder in (("json", KEPT), ("csv", KEPT), ("png", PICTURES)):
            shutil.copy(told.with_suffix(f".{end}"), folder)
    rows, pictures, left, machines = [], [], [], set()
    for name, figure in FIGURES.items():
        path = KEPT / f"fig{name.lower()}.json"
        if not path.exists():
            left.append(name)
            continue
        told = read_json(path, Told, REMEDY)
        machines.add(told.machine)
        rows.append(
            f"| {name} | {figure.claim} | {told.found} | {ANSWERS[told.agrees].lower()} | "
            f"{told.scale}, {seeds_of(told)} | {told.seconds / 60:.0f} |"
        )
        pictures += [
            f"**{name}. {figure.title}** (`benchmarks/results/paper/{path.stem}.csv`)", "",
            f"![Figure {name}: {figure.title}](paper/{path.stem}.png)", "",
        ]  # fmt: skip
    text = []
    if rows:
        head = "| figure | what the paper claims | what was found | here | scale, seeds | minutes |"
        text = [f"{'; '.join(sorted(machines))}.", "", head, "|---|---|---|---|---|---|", *rows, ""]
    if left:
        text += [f"Not made yet: {', '.join(left)}.", ""]
    text += pictures
    (RESULTS / "paper.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
