"""What became of the parts of one run, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from .result import PartResult


@dataclass
class Tally:
    """`unjudged` > 0 or `unwritten` > 0 means: somebody should look why."""

    parts: int = 0
    ok: int = 0
    ng: int = 0
    unjudged: int = 0
    """NG without a score."""
    reasons: dict[str, int] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    """Digests of the bundles that judged, in their order."""
    stopped: bool = False
    """Whether it was told to stop, rather than having read its source to the end."""
    unwritten: int = 0
    """Results that the journal's disk never took: no slow output and no archive has them."""
    trouble: str = ""
    """What that disk said last."""

    def count(self, result: PartResult) -> None:
        """Add one verdict."""
        self.parts += 1
        self.ok += result.verdict == "OK"
        self.ng += result.verdict == "NG"
        self.unjudged += result.reason not in ("", "score")
        if result.reason:
            self.reasons[result.reason] = self.reasons.get(result.reason, 0) + 1
        if result.score is not None and result.bundle not in self.bundles[-1:]:
            self.bundles.append(result.bundle)
