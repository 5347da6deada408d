"""A declared trace: how long a search takes and what it keeps, stated beforehand, for timing with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from avtbench.methods.contract import ContractError


@dataclass(frozen=True)
class Forced:
    """Every block takes ``probes`` trials and keeps ``kept`` tokens, whatever the networks say.

    run: trials that are really made for each block, all alike; what the others would cost is for the clock to add.
         None makes them all.
    """

    probes: int
    kept: int
    run: int | None = None

    @classmethod
    def given(cls, method: str, trace: Mapping[str, int] | None) -> Forced | None:
        """The knob ``forced`` of a method; raises :class:`ContractError` for fields that a trace does not have."""
        try:
            return cls(**trace) if trace else None
        except TypeError:
            expected = "expected probes, kept and, if short, run"
            raise ContractError(f"{method}: forced is {dict(trace or {})}, {expected}") from None

    def check(self, most: int) -> None:
        """Raise :class:`ContractError` unless a block of ``most`` tokens can keep ``kept``, and ``run`` be a part."""
        if self.probes < 0 or not 1 <= self.kept <= most:
            raise ContractError(f"forced trace {self}: expected probes >= 0 and 1 <= kept <= {most}")
        if self.run is not None and not 1 <= self.run <= self.probes:
            raise ContractError(f"forced trace {self}: expected 1 <= run <= {self.probes} probes")

    @property
    def made(self) -> int:
        """Trials that are really made for each block."""
        return self.run or self.probes

    @property
    def share(self) -> float:
        """Declared trials for each one that is made."""
        return self.probes / self.run if self.run else 1.0

    def as_dict(self) -> dict[str, int]:
        return {k: v for k, v in asdict(self).items() if v is not None}
