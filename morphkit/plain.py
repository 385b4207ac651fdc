"""Text for terminals that know only some letters."""

import codecs
import sys
import unicodedata

NAMES = {
    "↑": "(high)", "↓": "(low)", "±": "+-", "–": "-", "—": "-", "×": "x", "²": "^2", "⁻": "-",
    "≥": ">=", "≤": "<=", "→": "->", "·": "-", "…": "...", "’": "'", "⊗": "(x)", "∞": "inf",
    "α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon", "η": "eta", "λ": "lambda", "μ": "mu",
    "ν": "nu", "ξ": "xi", "π": "pi", "τ": "tau", "θ": "theta", "Σ": "sum", "Δ": "Delta",
}  # fmt: skip


def spelled(error: UnicodeError) -> tuple[str, int]:
    """A codec's answer to letters that it does not have, as `error` says: their names, or the
    letter beneath."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(NAMES.get(c) or _beneath(c) for c in letters), error.end


def _beneath(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


def spell_out() -> None:
    """Lets standard output and error spell what their encoding does not have."""
    codecs.register_error("morphkit.spelled", spelled)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="morphkit.spelled")
