"""What deprecates is an error where our own code uses it; for other people's code it is their matter."""

from __future__ import annotations

import warnings

warnings.filterwarnings("error", category=DeprecationWarning, module=r"(.*/)?(mandos_tx|tests)\b")
