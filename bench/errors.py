"""Errors that are the user's to mend: one line, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something given was not right; the message says what was found, what was expected and what mends it."""


SHOWN = 8
"""Names in a hint, where a command lists them all."""


def did_you_mean(word: str, options: Iterable[str], see: str = "") -> str:
    """A hint such as ``did you mean lit?``, or the list of what there is. see: the command that lists them all, where
    they may be many."""
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if see and len(known) > SHOWN:
        return f"there is {', '.join(known[:SHOWN])}, … see {see}"
    return f"there is {', '.join(known)}" if known else "there is none"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line: its type (unless it is meant for users) and its message."""
    text = " ".join(str(error).split())
    named = type(error).__name__
    told = (
        text
        if isinstance(error, UserError) or named in ("ContractError", "ClipError")
        else f"{named}: {text}".rstrip(": ")
    )
    return told if len(told) <= limit else told[: limit - 1] + "…"
