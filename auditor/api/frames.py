"""Tables on disk and as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from auditor.errors import RunError


def read_table(path: Path) -> pd.DataFrame:
    """Read one of a run's tables; names such as ``NA`` or ``007`` stay text.

    Raises
    ------
    RunError
        If it is missing or damaged.
    """
    text = {
        "unit_id": str,
        "site": str,
        "layer": str,
        "kind": str,
        "order": str,
        "run": str,
        "class_name": str,
        "reason": str,
    }
    try:
        header = pd.read_csv(path, nrows=0).columns
        names = {c: str for c in header if c in text or c == "preferred" or c.endswith("_preferred")}
        numbers = {c: ["", "nan"] for c in header if c not in names}
        return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=numbers)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", fix="Profile again under another --name.") from error


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, with None for what is undefined (JSON knows no NaN)."""
    return [
        {str(k): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
        for row in table.astype(object).to_dict("records")
    ]
