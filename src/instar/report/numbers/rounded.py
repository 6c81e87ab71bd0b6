"""Numbers as the page has them."""

from typing import Any

import numpy as np


def rounded(values: Any) -> Any:
    """Nested lists, four decimals, None for what is masked."""
    values = np.asarray(values, float)
    if values.ndim == 0:
        return round(float(values), 4) if np.isfinite(values) else None
    return [rounded(v) for v in values]
