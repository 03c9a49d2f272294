"""Single-unit ablation through Captum's ``LayerFeatureAblation``.

Captum returns one number per ablation, the change of what the forward function returns. Here that is the target
logit; the complete logits of the same ablated passes are recorded on the way, so that loss and accuracy come from the
same evaluation instead of two more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.attr import LayerFeatureAblation
from torch import Tensor, nn

from auditor.ablation.edits import Edit
from auditor.ablation.engine import Advance, Engine, Job, Noise, Sink, edit_context
from auditor.ablation.replay import record, unit_maps
from auditor.errors import ModelError
from auditor.hooks import taps
from auditor.units import Site

TOLERANCE = 1e-5


class _Recorder:
    """Forward function for Captum that keeps every batch of logits it computes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.logits: list[Tensor] = []

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self._model(images.clone())  # which a model may change in place
        self.logits.append(logits.detach())
        # Captum refuses tensor targets when several perturbations share a batch, so the label's logit is taken here.
        return logits.gather(1, labels[:, None]).squeeze(1)


def captum_unit_logits(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    site: Site,
    units: Sequence[int],
    *,
    baselines: Tensor | None = None,
    max_batch: int = 512,
) -> Tensor:
    """Logits with each of a site's `units` silenced, or replaced, alone.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    images, labels : Tensor
        Shapes (B, C, H, W) and (B,); the labels index the model's outputs.
    site : Site
        One call of one layer; a module that is called several times is measured at this call only.
    units : sequence of int
        Distinct unit indices.
    baselines : Tensor, shape (B, *site.shape), optional
        What takes the place of a unit's map. Default: zero.
    max_batch : int
        Largest number of (image, ablation) pairs in one forward pass.

    Returns
    -------
    Tensor
        Shape (len(units), B, outputs), float32, on the CPU.

    Raises
    ------
    ModelError
        If the recorded logits do not reproduce Captum's own attributions.

    Notes
    -----
    ``LayerFeatureAblation`` (Captum; Kokhlikyan et al. 2020) silences every group of its layer mask in turn. The units
    that are not asked for form one group of their own, at the cost of one more ablation per call.
    """
    per_pass = max(1, max_batch // len(images))
    # Groups are visited in ascending order: the units asked for first, the rest of the site last.
    mask = torch.full((site.n_units,), len(units), dtype=torch.long)
    mask[torch.as_tensor(units)] = torch.arange(len(units))
    shape = [1] * (len(site.shape) + 1)
    shape[site.unit_axis] = site.n_units
    recorder = _Recorder(model)
    with taps(model, [site]) as tapped:
        attributions = LayerFeatureAblation(recorder, tapped[site.name]).attribute(
            images,
            additional_forward_args=(labels,),
            layer_baselines=0 if baselines is None else baselines,
            layer_mask=mask.view(shape).to(images.device),
            perturbations_per_eval=per_pass,
        )
    # One pass reads the layer, one is intact, the rest are ablated.
    intact, passes = recorder.logits[1], recorder.logits[2:]
    ablated = torch.cat([part.view(-1, len(images), part.shape[-1]) for part in passes])[: len(units)]
    _check_against_attributions(attributions, intact, ablated, labels, site, units)
    return ablated.float().cpu()


class CaptumEngine(Engine):
    """``LayerFeatureAblation`` for every unit: the whole network again for each, and the oracle of the others.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    dtype : torch.dtype
        Of the images.
    max_batch : int
        Largest number of (image, ablation) pairs in one forward pass.
    """

    name = "captum"

    def __init__(self, model: nn.Module, *, dtype: torch.dtype = torch.float32, max_batch: int = 512) -> None:
        self.model, self.dtype, self.fallbacks = model, dtype, {}
        self._max_batch = max_batch

    def ablate(
        self,
        images: Tensor,
        jobs: Sequence[Job],
        edit: Edit,
        sink: Sink,
        *,
        donors: Tensor | None = None,
        noise: Noise | None = None,
        advance: Advance | None = None,
    ) -> Tensor:
        """See :meth:`Engine.ablate`."""
        calls = {job.call for job in jobs}
        with torch.no_grad():
            logits, values = record(self.model, images, calls)
            given = None if donors is None else record(self.model, donors, calls)[1]
        # Any output will do: only the logits are used.
        labels = logits.argmax(1)
        for job in jobs:
            site, value = job.site, values[job.call]
            after = edit.apply(unit_maps(value, site.unit_axis, job.units), edit_context(job, given, noise))
            value.movedim(site.unit_axis, 1)[:, job.units] = after
            found = captum_unit_logits(
                self.model, images, labels, site, job.units.tolist(), baselines=value, max_batch=self._max_batch
            )
            n_units, n_images = found.shape[:2]
            unit, row = torch.arange(n_units * n_images).div(n_images, rounding_mode="floor"), torch.arange(n_images)
            # Rounded as the others are, so that equal logits stay equal.
            intact = logits.float().cpu().repeat(n_units, 1)
            sink(site.name, unit, row.repeat(n_units), found.flatten(0, 1), intact)
            if advance is not None:
                advance(n_units * n_images)
        return logits


def _check_against_attributions(
    attributions: Tensor, intact: Tensor, ablated: Tensor, labels: Tensor, site: Site, units: Sequence[int]
) -> None:
    # Every position of a unit's map carries the same attribution: that of silencing the whole unit.
    by_unit = (
        attributions.movedim(site.unit_axis, 1).reshape(len(labels), site.n_units, -1)[:, torch.as_tensor(units), 0].T
    )
    target = labels.expand(len(units), -1)[..., None]
    drop = (intact.expand_as(ablated).gather(2, target) - ablated.gather(2, target)).squeeze(2)
    worst = float((drop - by_unit).abs().max())
    if worst > TOLERANCE * max(1.0, float(intact.abs().max())):
        raise ModelError(
            f"Captum's attributions at {site.name} differ from the logits of the same passes by {worst:.3g}.",
            fix="The model's output depends on more than its input (a random or stateful layer in eval mode?).",
        )
