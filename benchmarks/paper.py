"""What `morphkit paper` made, for docs/reproduction.md.

`python benchmarks/paper.py [DIR]` copies numbers, pictures and their origins from DIR, by default
runs/paper/cpu, to benchmarks/results/paper, and writes results/paper.md of all that is there.
"""

import json
import shutil
import sys
from pathlib import Path

from morphkit.paper.bridges import FIGURES

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "paper"
ANSWERS = {True: "yes", False: "no", None: "undecided"}


def main() -> None:
    made = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/paper/cpu")
    KEPT.mkdir(parents=True, exist_ok=True)
    for told in made.glob("fig*.json"):
        for end in ("json", "csv", "png"):
            shutil.copy(told.with_suffix(f".{end}"), KEPT)
    rows, left = [], []
    for name, figure in FIGURES.items():
        path = KEPT / f"fig{name.lower()}.json"
        if not path.exists():
            left.append(name)
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        seeds = "–".join(
            map(str, dict.fromkeys((told["seeds"] or [1])[:: len(told["seeds"]) or 1]))
        )
        minutes = sum(told["seconds"].values()) / 60
        rows.append(
            f"| {name} | {figure.claim} | {told['found']} | {ANSWERS[told['agrees']]} | "
            f"{told['scale']}, {seeds} | {minutes:.0f} |"
        )
    machine = sorted({
        json.loads(p.read_text(encoding="utf-8"))["machine"] for p in KEPT.glob("fig*.json")
    })  # fmt: skip
    head = "| figure | what the paper claims | what was found | agrees | scale, seeds | minutes |"
    text = [f"{'; '.join(machine)}.", "", head, "|---|---|---|---|---|---|", *rows]
    if left:
        text += ["", f"Not made yet: {', '.join(left)}."]
    (RESULTS / "paper.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
