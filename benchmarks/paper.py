"""What `morphkit paper` made, for docs/reproduction.md.

`python benchmarks/paper.py [DIR]` copies numbers and their origins from DIR, by default
runs/paper/cpu, to benchmarks/results/paper, pictures to docs/paper, and writes results/paper.md of
all that is there. What the runs found goes beside it, without their morphs, an archive a sweep:
unpacked, the same command goes on from it, and draws without computing again.
"""

import shutil
import sys
import tarfile
from pathlib import Path

from morphkit.files import read_json, replace_file
from morphkit.folder import SweepFolder
from morphkit.paper.bridges import FIGURES
from morphkit.paper.index import ANSWERS, REMEDY, Told, less_of, seeds_of

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "paper"
PICTURES = Path(__file__).parent.parent / "docs" / "paper"
FOUND = "metrics.json", "trials.csv"
"""What a finished run and a finished search have."""
ARCHIVED = (
    "config.gin", "run.json", "choice.json", "morph/manifest.json", "log.jsonl", "seconds.json",
    *FOUND,
)  # fmt: skip
DRAWN_BY_MORPH = "fig04", "fig15"
"""Sweeps whose pictures need more than that."""
DRAWN_BY_NAMES = "fig11a", "fig11b"
"""Sweeps whose pictures need the names of the classes, too."""


def archive(sweep: Path) -> None:
    """What is finished of a `sweep`, as a file that is the same for the same runs. Ends the script
    where the file has runs that the sweep has not: they would be lost."""
    folders = [sweep / name for name in SweepFolder(sweep).runs]
    done = [path for path in folders if any((path / name).exists() for name in FOUND)]
    if not done:
        return
    kept = [sweep / "sweep.json", *(path / name for path in done for name in ARCHIVED)]
    if sweep.name in DRAWN_BY_NAMES:
        kept.append(done[0] / "figures.npz")

    def ownerless(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    names = {path: str(path.relative_to(sweep.parent)) for path in kept if path.is_file()}
    target = KEPT / f"{sweep.name}.tar.xz"
    if target.exists():
        with tarfile.open(target) as file:
            if lost := set(file.getnames()).difference(names.values()):
                sys.exit(
                    f"{target} has {min(lost)}, {sweep} has not: unpack it into {sweep.parent}"
                )

    def write(new: Path) -> None:
        with tarfile.open(new, "w:xz") as file:
            for path, name in names.items():
                file.add(path, name, filter=ownerless)

    replace_file(target, write)


def main() -> None:
    made = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/paper/cpu")
    for folder in (KEPT, PICTURES):
        folder.mkdir(parents=True, exist_ok=True)
    for told in made.glob("fig*.json"):
        for end, folder in (("json", KEPT), ("csv", KEPT), ("png", PICTURES)):
            shutil.copy(told.with_suffix(f".{end}"), folder)
    for sweep in made.glob("*/sweep.json"):
        if sweep.parent.name not in DRAWN_BY_MORPH:
            archive(sweep.parent)
    rows, pictures, left, machines = [], [], [], set()
    for name, figure in FIGURES.items():
        path = KEPT / f"fig{name.lower()}.json"
        if not path.exists():
            left.append(name)
            continue
        told = read_json(path, Told, REMEDY)
        machines.add(told.machine)
        seeds = seeds_of(told) + (f" ({less})" if (less := less_of(told)) else "")
        rows.append(
            f"| {name} | {figure.claim} | {told.found} | {ANSWERS[told.agrees].lower()} | "
            f"{told.scale}, {seeds} | {told.seconds / 60:.0f} |"
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
