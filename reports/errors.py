"""The two ways in which a report says no: bad input, and a comparison that would mislead."""


class ReportError(ValueError):
    """The rows or the output folder cannot make a report; one line says what was found, expected and what mends it."""


class Refused(ValueError):
    """A comparison is not made because its number would mislead; the message is the reason, fit for printing."""
