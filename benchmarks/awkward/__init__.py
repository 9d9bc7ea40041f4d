"""Random models of the kinds that tracing tends to lose something of, and a verdict on what becomes of each."""

from .models import Awkward, drawn
from .verdict import Verdict, judged

__all__ = ["Awkward", "Verdict", "drawn", "judged"]
