"""``python -m ffebm_compiler.cli``."""

import sys

from .main import main

sys.exit(main())
