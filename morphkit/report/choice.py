"""What a run chose from, as a table and in words."""

import math
from collections.abc import Mapping
from typing import Any

from .tables import Row, Table, best_of, number, text_of

COLUMNS = {
    "log_posterior": "log posterior ↑", "standard_error": "± se", "recall_at_1": "R@1 ↑",
    "r2": "R² ↑", "held_out": "held out", "seconds": "seconds",
}  # fmt: skip
"""What is shown of each candidate, by its name in choice.json."""

ROLES = {
    "coupling": "coupled by", "anchor": "the flow starts from", "ranking": "targets ranked by",
}  # fmt: skip
"""What the winners are for."""


def shown(name: str) -> str:
    """The `name` of a candidate as people read it: label_spreading → label spreading."""
    return name.replace("_", " ")


def choice_table(said: Mapping[str, Any]) -> Table:
    """The candidates of a choice, `said` as in choice.json, the best of each column marked."""
    rows = said["rows"]

    def column(name: str) -> dict[str, float]:
        values = {row["name"]: row.get(name) for row in rows if not row["out"] or name == "seconds"}
        return {who: math.nan if value is None else value for who, value in values.items()}

    better = {"log_posterior": "higher", "recall_at_1": "higher", "r2": "higher"}
    best = {k: best_of(column(k), better.get(k)) for k in COLUMNS}
    lines = []
    for row in rows:
        values = (row.get(name) for name in COLUMNS)
        cells = [number(math.nan if value is None else value) for value in values]
        marked = {k for k, name in enumerate(COLUMNS) if row["name"] in best[name]}
        lines.append(Row(shown(row["name"]), cells, marked, row["kind"] == "coupling"))
    return Table(list(COLUMNS.values()), lines)


def choice_notes(said: Mapping[str, Any]) -> list[str]:
    """What became of a choice, `said` as in choice.json, a sentence each: the advice, who won what,
    and who was not heard to the end."""
    advice = said["advice"]
    for row in said["rows"]:
        advice = advice.replace(row["name"], shown(row["name"]))
    notes = [advice[0].upper() + advice[1:] + "."]
    row = next(row for row in said["rows"] if row["name"] == said["ranking"])
    notes.append(
        f"Of what ranks targets, the best one has probability {row['confidence']:.2f} on average, "
        f"and is right in {row['recall_at_1']:.2f} of the {row['held_out']:g} held-out cases."
    )
    made_of = {row["name"]: row["made_of"] for row in said["rows"]}
    for role, what in ROLES.items():
        if name := said[role]:
            notes.append(f"{what.capitalize()}: {shown(name)}, which is {made_of[name]}.")
    notes += [f"{shown(row['name'])}: {row['out']}." for row in said["rows"] if row["out"]]
    return notes


def format_choice(said: Mapping[str, Any]) -> str:
    """The table and the notes of a choice, `said` as in choice.json, as text."""
    return "\n".join([*text_of(choice_table(said)), *choice_notes(said)])


def held_out_recall(said: Mapping[str, Any]) -> tuple[float, float, int]:
    """How often the best of a choice, `said` as in choice.json, ranked the target of a held-out
    point first, the standard deviation of that share given the counts (of Beta(k + 1, n - k + 1):
    ten of ten are no certainty), and of how many points it is."""
    row = next(row for row in said["rows"] if row["name"] == said["ranking"])
    recall, count = float(row["recall_at_1"]), int(row["held_out"])
    share = (recall * count + 1) / (count + 2)
    return recall, math.sqrt(share * (1 - share) / (count + 3)), count
