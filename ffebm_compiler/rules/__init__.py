"""What has an energy: one rule an operation, in explicit tables."""

from .forms import Form
from .registry import FORMS, RULES, Forms, Rules
from .rule import Call, Reading, Refusal, Role, Rule

__all__ = ["FORMS", "RULES", "Call", "Form", "Forms", "Reading", "Refusal", "Role", "Rule", "Rules"]
