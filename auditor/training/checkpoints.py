"""Everything that a stopped training needs to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import CheckpointError, RunError
from auditor.models import save_weights
from auditor.store.disk import cannot_write, system_error
from auditor.store.files import replacing
from auditor.training.history import EpochRecord, LayerRecord, Training
from auditor.training.regularizer import SelectivityRegularizer

BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass
class Progress:
    """A training in the middle of its work.

    Attributes
    ----------
    model, optimizer, scaler, regularizer
        What changes from batch to batch; the regularizer for its running class means.
    history : Training
    best : dict of str to Tensor
        Weights of the best epoch so far, on the CPU; empty while they are not wanted.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    regularizer: SelectivityRegularizer | None
    history: Training = field(default_factory=lambda: Training([], []))
    best: dict[str, Tensor] = field(default_factory=dict)

    def keep_best(self) -> None:
        """Copy the model's weights if its last epoch is the best so far."""
        if self.history.best == len(self.history.epochs):
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write everything into one file, which is whole or not there.

        Raises
        ------
        StoreError
            If there is no room for it. What was saved before stays.
        """
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "regularizer": {} if self.regularizer is None else self.regularizer.state(),
            "best": self.best,
            "epochs": [asdict(record) for record in self.history.epochs],
            "layers": [asdict(record) for record in self.history.layers],
        }
        with replacing(path, size=_n_bytes(content)) as file:
            torch.save(content, file)

    def restore(self, path: Path) -> None:
        """Take up what :meth:`save` wrote.

        Raises
        ------
        RunError
            If the file is damaged, or of another training.
        """
        try:
            content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            history = Training(
                [EpochRecord(**record) for record in content["epochs"]],
                [LayerRecord(**record) for record in content["layers"]],
                self.history.settled,
            )
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if content["scaler"]:
                self.scaler.load_state_dict(content["scaler"])
            if self.regularizer is not None:
                self.regularizer.restore(content["regularizer"])
            self.best, self.history = content["best"], history
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise RunError(
                f"The saved training state cannot be read ({type(error).__name__}).",
                got=str(path),
                fix="Delete the file to train from the start.",
            ) from error

    def export(self, folder: Path | None, *, keep: str) -> None:
        """Leave the weights to be kept in the model; write those of the last and of the best epoch, given a folder."""
        last = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        ends = {"best": self.history.best, "last": len(self.history.epochs)}
        if folder is not None:
            write_weights(self.model, folder / LAST, {"epoch": str(ends["last"])})
        self.model.load_state_dict(self.best)
        if folder is not None:
            write_weights(self.model, folder / BEST, {"epoch": str(ends["best"])})
        if keep == "last":
            self.model.load_state_dict(last)


def write_weights(module: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """:func:`auditor.models.save_weights`; a full disk is told of as for every other file.

    Raises
    ------
    StoreError
        If the system does not let the file be written.
    CheckpointError
        If the module holds state that is not a tensor.
    """
    try:
        save_weights(module, path, metadata)
    except CheckpointError as error:
        said = system_error(error)
        if said is None:
            raise
        raise cannot_write(path, said, size=_n_bytes(module.state_dict())) from said


def _n_bytes(content: object) -> int:
    """Bytes of all tensors in nested mappings."""
    if isinstance(content, Mapping):
        return sum(map(_n_bytes, content.values()))
    return content.nbytes if isinstance(content, Tensor) else 0
