"""How often a run may choose and certify a plan, and how sure each certificate has to be.

A certificate that just fails would leave the dense model, though a more careful plan holds. So there is a second try,
on the same documents. That the first one failed is all that it knows of them, and the errors of both, .045 and .005,
add up to the .05 that one test would have (docs/adr/0014).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """One plan that is chosen and certified.

    Attributes:
        share: of each budget, within which the plan is chosen; the certificate is held against the whole of it.
        confidence: of the certificate's bounds.
    """

    share: float
    confidence: float


ATTEMPTS = (Attempt(1.0, 0.955), Attempt(0.6, 0.995))
"""What a run does whose plan the policy chooses: the next one where a certificate did not hold. Windows widen in the
first one only."""

GIVEN = (Attempt(1.0, 0.95),)
"""What it does with a plan that was given, or without documents to certify on."""
