"""The plugin in ``docs/finetuning.md`` works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from auditor.training.classes import ClassStatistics, Groups

PAGE = Path(__file__).parents[2] / "docs" / "finetuning.md"


def test_the_example_is_a_training_metric() -> None:
    match = re.search(r"^<!-- plugin -->\n```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert match, "docs/finetuning.md shows no plugin"
    module: dict[str, Any] = {"__name__": "auditor_share"}
    exec(compile(match[1], str(PAGE), "exec"), module)
    (metric,) = module["auditor_training_metrics"]()
    labels = torch.arange(4).repeat(3)
    responses = torch.stack([(labels == 1).double(), torch.ones(12), torch.zeros(12)], dim=1).requires_grad_()
    found = metric(ClassStatistics.of(responses, Groups.of(labels)))
    assert found.tolist() == [1.0, 0.25, 0.0]
    found.sum().backward()
    assert torch.isfinite(responses.grad).all()
