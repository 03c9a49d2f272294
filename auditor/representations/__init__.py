"""The geometry of representations: dimensionality, similarity of networks, selectivity off the axes."""

from auditor.representations.cca import Subspace, cca, pwcca, subspace, svcca
from auditor.representations.cka import linear_cka
from auditor.representations.dimensionality import Spectrum, SpectrumAccumulator, spectrum
from auditor.representations.incremental import IncrementalSpectrum, spectrum_accumulator
from auditor.representations.intervals import Dimensionality, dimensionality_interval, jackknife
from auditor.representations.probes import ProbeResult, linear_probe
from auditor.representations.rotation import RotationResult, best_rotation
from auditor.representations.similarity import MEASURES, distances
from auditor.representations.variability import Variability, coefficient_of_variation

__all__ = [
    "MEASURES",
    "Dimensionality",
    "IncrementalSpectrum",
    "ProbeResult",
    "RotationResult",
    "Spectrum",
    "SpectrumAccumulator",
    "Subspace",
    "Variability",
    "best_rotation",
    "cca",
    "coefficient_of_variation",
    "dimensionality_interval",
    "distances",
    "jackknife",
    "linear_cka",
    "linear_probe",
    "pwcca",
    "spectrum",
    "spectrum_accumulator",
    "subspace",
    "svcca",
]
