"""The two ways in which a report says no: bad input, and a comparison that would mislead."""

from avtbench.bench.errors import UserError


class ReportError(UserError):
    """The rows or the output folder cannot make a report."""


class Refused(UserError):
    """A comparison is not made because its number would mislead; the message is the reason, fit for printing."""


class TooLittleOverlap(Refused):
    """Two curves share too little of an axis; ``shared`` is the part that they do, 0..1."""

    def __init__(self, message: str, shared: float) -> None:
        super().__init__(message)
        self.shared = shared
