"""What has an energy: one rule an operation, in explicit tables."""

from .registry import REMAKES, RULES, Rules
from .remake import Remake, Remakes
from .rule import Call, Reading, Refusal, Role, Rule

__all__ = ["REMAKES", "RULES", "Call", "Reading", "Refusal", "Remake", "Remakes", "Role", "Rule", "Rules"]
