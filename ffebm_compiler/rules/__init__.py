"""What has an energy: one rule an operation, in explicit tables."""

from .registry import RULES, Rules
from .rule import Call, Reading, Refusal, Role, Rule

__all__ = ["RULES", "Call", "Reading", "Refusal", "Role", "Rule", "Rules"]
