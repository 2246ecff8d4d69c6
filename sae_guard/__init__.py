"""Gate releases of sparse autoencoders: ``pytest --sae checkpoint.pt``.

From Python, ``sae_guard.run_gate(...)`` runs the same gate, and ``sae_guard.measure(...)`` measures
without any spec. What is listed here, `sae_guard.errors` and `sae_guard.testing` is public
(`docs/reference/api.md`); every other module is private and may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_guard.api import diagnose as diagnose
    from sae_guard.api import load_sae as load_sae
    from sae_guard.api import measure as measure
    from sae_guard.api import measure_all as measure_all
    from sae_guard.api import run_gate as run_gate
    from sae_guard.checkpoints.options import SaeOptions as SaeOptions
    from sae_guard.core.comparison import Baseline as Baseline
    from sae_guard.core.comparison import Change as Change
    from sae_guard.core.comparison import Comparison as Comparison
    from sae_guard.core.comparison import MetricMove as MetricMove
    from sae_guard.core.comparison import Moved as Moved
    from sae_guard.core.comparison import MovedSequence as MovedSequence
    from sae_guard.core.comparison import MovedToken as MovedToken
    from sae_guard.core.comparison import NotComparableError as NotComparableError
    from sae_guard.core.comparison import Version as Version
    from sae_guard.core.comparison import compare as compare
    from sae_guard.core.diagnosis import Diagnosis as Diagnosis
    from sae_guard.core.diagnosis import Suspicion as Suspicion
    from sae_guard.core.measurement import Around as Around
    from sae_guard.core.measurement import Excerpts as Excerpts
    from sae_guard.core.measurement import FiringSpread as FiringSpread
    from sae_guard.core.measurement import Measurement as Measurement
    from sae_guard.core.measurement import Provenance as Provenance
    from sae_guard.core.measurement import TokenKL as TokenKL
    from sae_guard.core.measurement import TokenTable as TokenTable
    from sae_guard.core.pareto import Pareto as Pareto
    from sae_guard.core.pareto import ParetoVerdict as ParetoVerdict
    from sae_guard.core.pareto import Point as Point
    from sae_guard.core.report import CaseRef as CaseRef
    from sae_guard.core.report import CaseReport as CaseReport
    from sae_guard.core.report import ContractResult as ContractResult
    from sae_guard.core.report import ControlsResult as ControlsResult
    from sae_guard.core.report import MetricValue as MetricValue
    from sae_guard.core.report import NotGated as NotGated
    from sae_guard.core.report import NotJudged as NotJudged
    from sae_guard.core.report import ParetoResult as ParetoResult
    from sae_guard.core.report import RecordResult as RecordResult
    from sae_guard.core.report import RunReport as RunReport
    from sae_guard.core.report import Sample as Sample
    from sae_guard.core.report_json import report_from_json as report_from_json
    from sae_guard.core.report_json import report_to_json as report_to_json
    from sae_guard.core.statistics import Estimate as Estimate
    from sae_guard.core.targets import Slice as Slice
    from sae_guard.core.targets import Target as Target
    from sae_guard.core.targets import estimate as estimate
    from sae_guard.core.threshold_changes import LoosenedThresholds as LoosenedThresholds
    from sae_guard.core.threshold_changes import ThresholdChange as ThresholdChange
    from sae_guard.core.thresholds import Threshold as Threshold
    from sae_guard.core.verdicts import Progress as Progress
    from sae_guard.core.verdicts import Verdict as Verdict
    from sae_guard.core.verdicts import judge as judge
    from sae_guard.core.worst_tokens import Worst as Worst
    from sae_guard.core.worst_tokens import WorstSequence as WorstSequence
    from sae_guard.core.worst_tokens import WorstToken as WorstToken
    from sae_guard.core.worst_tokens import worst as worst
    from sae_guard.corpus import Corpus as Corpus
    from sae_guard.corpus.windows import Document as Document
    from sae_guard.errors import InfrastructureError as InfrastructureError
    from sae_guard.errors import LoadError as LoadError
    from sae_guard.errors import SaeGuardError as SaeGuardError
    from sae_guard.errors import SetupError as SetupError
    from sae_guard.errors import SpecError as SpecError
    from sae_guard.errors import UndefinedMetricError as UndefinedMetricError
    from sae_guard.gate.options import EarlyOptions as EarlyOptions
    from sae_guard.history import HistoryError as HistoryError
    from sae_guard.model import LanguageModel as LanguageModel
    from sae_guard.model import load_model as load_model
    from sae_guard.render import summary as summary
    from sae_guard.sae import SAE as SAE
    from sae_guard.sae import SaeSource as SaeSource
    from sae_guard.sae.activations import AbsTopK as AbsTopK
    from sae_guard.sae.activations import Gated as Gated
    from sae_guard.sae.activations import GroupMax as GroupMax
    from sae_guard.sae.activations import JumpReLU as JumpReLU
    from sae_guard.sae.activations import ReLU as ReLU
    from sae_guard.sae.activations import SelectedLatents as SelectedLatents
    from sae_guard.sae.activations import TanhReLU as TanhReLU
    from sae_guard.sae.activations import TopK as TopK
    from sae_guard.sae.autoencoder import NormalisedInput as NormalisedInput
    from sae_guard.sae.autoencoder import SaeOutput as SaeOutput

# Resolved on first use: the pytest plugin imports this package in every pytest run.
_HOMES = {
    "api": "diagnose load_sae measure measure_all run_gate",
    "checkpoints.options": "SaeOptions",
    "core.comparison": (
        "Baseline Change Comparison MetricMove Moved MovedSequence MovedToken NotComparableError "
        "Version compare"
    ),
    "core.diagnosis": "Diagnosis Suspicion",
    "core.measurement": "Around Excerpts FiringSpread Measurement Provenance TokenKL TokenTable",
    "core.pareto": "Pareto ParetoVerdict Point",
    "core.report": (
        "CaseRef CaseReport ContractResult ControlsResult MetricValue NotGated NotJudged "
        "ParetoResult RecordResult RunReport Sample"
    ),
    "core.report_json": "report_from_json report_to_json",
    "core.statistics": "Estimate",
    "core.targets": "Slice Target estimate",
    "core.threshold_changes": "LoosenedThresholds ThresholdChange",
    "core.thresholds": "Threshold",
    "core.verdicts": "Progress Verdict judge",
    "core.worst_tokens": "Worst WorstSequence WorstToken worst",
    "corpus": "Corpus",
    "corpus.windows": "Document",
    "errors": (
        "InfrastructureError LoadError SaeGuardError SetupError SpecError UndefinedMetricError"
    ),
    "gate.options": "EarlyOptions",
    "history": "HistoryError",
    "model": "LanguageModel load_model",
    "render": "summary",
    "sae": "SAE SaeSource",
    "sae.activations": "AbsTopK Gated GroupMax JumpReLU ReLU SelectedLatents TanhReLU TopK",
    "sae.autoencoder": "NormalisedInput SaeOutput",
}
"""Module → the public names that it has."""

_PLACES = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
