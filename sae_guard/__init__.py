"""Gate releases of sparse autoencoders: ``pytest --sae checkpoint.pt``.

From Python, ``sae_guard.run_gate(...)`` runs the same gate, and ``sae_guard.measure(...)`` measures
without any spec. What is listed here, `sae_guard.errors` and `sae_guard.testing` is public
(`docs/api.md`); every other module is private and may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_guard.api import diagnose, load_sae, measure, measure_all, run_gate
    from sae_guard.checkpoints.options import SaeOptions
    from sae_guard.core.comparison import (
        Baseline,
        Change,
        Comparison,
        MetricMove,
        Moved,
        MovedSequence,
        MovedToken,
        NotComparableError,
        Version,
        compare,
    )
    from sae_guard.core.diagnosis import Diagnosis, Suspicion
    from sae_guard.core.measurement import (
        Around,
        Excerpts,
        FiringSpread,
        Measurement,
        Provenance,
        TokenKL,
        TokenTable,
    )
    from sae_guard.core.pareto import Pareto, ParetoVerdict, Point
    from sae_guard.core.report import (
        CaseRef,
        CaseReport,
        ContractResult,
        ControlsResult,
        MetricValue,
        NotGated,
        NotJudged,
        ParetoResult,
        RecordResult,
        RunReport,
        Sample,
    )
    from sae_guard.core.report_json import from_json as report_from_json
    from sae_guard.core.report_json import to_json as report_to_json
    from sae_guard.core.statistics import Estimate
    from sae_guard.core.targets import Slice, Target, estimate
    from sae_guard.core.threshold_changes import LoosenedThresholds, ThresholdChange
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.verdicts import Progress, Verdict, judge
    from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken, worst
    from sae_guard.corpus import Corpus
    from sae_guard.corpus.windows import Document
    from sae_guard.errors import (
        InfrastructureError,
        LoadError,
        SaeGuardError,
        SetupError,
        SpecError,
        UndefinedMetricError,
    )
    from sae_guard.gate.options import EarlyOptions
    from sae_guard.history import HistoryError
    from sae_guard.model import LanguageModel, load_model
    from sae_guard.render import summary
    from sae_guard.sae import SAE, SaeSource
    from sae_guard.sae.activations import (
        AbsTopK,
        Gated,
        GroupMax,
        JumpReLU,
        ReLU,
        Selected,
        TanhReLU,
        TopK,
    )
    from sae_guard.sae.autoencoder import Normalised, SaeOutput

# Resolved on first use: the pytest plugin imports this package in every pytest run.
_HOME = {
    "AbsTopK": "sae.activations",
    "Around": "core.measurement",
    "Baseline": "core.comparison",
    "CaseRef": "core.report",
    "CaseReport": "core.report",
    "Change": "core.comparison",
    "Comparison": "core.comparison",
    "ContractResult": "core.report",
    "ControlsResult": "core.report",
    "Corpus": "corpus",
    "Diagnosis": "core.diagnosis",
    "Document": "corpus.windows",
    "EarlyOptions": "gate.options",
    "Estimate": "core.statistics",
    "Excerpts": "core.measurement",
    "FiringSpread": "core.measurement",
    "Gated": "sae.activations",
    "GroupMax": "sae.activations",
    "HistoryError": "history",
    "InfrastructureError": "errors",
    "JumpReLU": "sae.activations",
    "LanguageModel": "model",
    "LoadError": "errors",
    "LoosenedThresholds": "core.threshold_changes",
    "Measurement": "core.measurement",
    "MetricMove": "core.comparison",
    "MetricValue": "core.report",
    "Moved": "core.comparison",
    "MovedSequence": "core.comparison",
    "MovedToken": "core.comparison",
    "Normalised": "sae.autoencoder",
    "NotComparableError": "core.comparison",
    "NotGated": "core.report",
    "NotJudged": "core.report",
    "Pareto": "core.pareto",
    "ParetoResult": "core.report",
    "ParetoVerdict": "core.pareto",
    "Point": "core.pareto",
    "Progress": "core.verdicts",
    "Provenance": "core.measurement",
    "ReLU": "sae.activations",
    "RecordResult": "core.report",
    "RunReport": "core.report",
    "SAE": "sae",
    "SaeGuardError": "errors",
    "SaeOptions": "checkpoints.options",
    "SaeOutput": "sae.autoencoder",
    "SaeSource": "sae",
    "Sample": "core.report",
    "Selected": "sae.activations",
    "SetupError": "errors",
    "Slice": "core.targets",
    "SpecError": "errors",
    "Suspicion": "core.diagnosis",
    "TanhReLU": "sae.activations",
    "Target": "core.targets",
    "Threshold": "core.thresholds",
    "ThresholdChange": "core.threshold_changes",
    "TokenKL": "core.measurement",
    "TokenTable": "core.measurement",
    "TopK": "sae.activations",
    "UndefinedMetricError": "errors",
    "Verdict": "core.verdicts",
    "Version": "core.comparison",
    "Worst": "core.worst_tokens",
    "WorstSequence": "core.worst_tokens",
    "WorstToken": "core.worst_tokens",
    "compare": "core.comparison",
    "diagnose": "api",
    "estimate": "core.targets",
    "judge": "core.verdicts",
    "load_model": "model",
    "load_sae": "api",
    "measure": "api",
    "measure_all": "api",
    "report_from_json": "core.report_json:from_json",
    "report_to_json": "core.report_json:to_json",
    "run_gate": "api",
    "summary": "render",
    "worst": "core.worst_tokens",
}
"""Public name → the module that has it, and its name there where that is another."""

__all__ = [
    "SAE",
    "AbsTopK",
    "Around",
    "Baseline",
    "CaseRef",
    "CaseReport",
    "Change",
    "Comparison",
    "ContractResult",
    "ControlsResult",
    "Corpus",
    "Diagnosis",
    "Document",
    "EarlyOptions",
    "Estimate",
    "Excerpts",
    "FiringSpread",
    "Gated",
    "GroupMax",
    "HistoryError",
    "InfrastructureError",
    "JumpReLU",
    "LanguageModel",
    "LoadError",
    "LoosenedThresholds",
    "Measurement",
    "MetricMove",
    "MetricValue",
    "Moved",
    "MovedSequence",
    "MovedToken",
    "Normalised",
    "NotComparableError",
    "NotGated",
    "NotJudged",
    "Pareto",
    "ParetoResult",
    "ParetoVerdict",
    "Point",
    "Progress",
    "Provenance",
    "ReLU",
    "RecordResult",
    "RunReport",
    "SaeGuardError",
    "SaeOptions",
    "SaeOutput",
    "SaeSource",
    "Sample",
    "Selected",
    "SetupError",
    "Slice",
    "SpecError",
    "Suspicion",
    "TanhReLU",
    "Target",
    "Threshold",
    "ThresholdChange",
    "TokenKL",
    "TokenTable",
    "TopK",
    "UndefinedMetricError",
    "Verdict",
    "Version",
    "Worst",
    "WorstSequence",
    "WorstToken",
    "compare",
    "diagnose",
    "estimate",
    "judge",
    "load_model",
    "load_sae",
    "measure",
    "measure_all",
    "report_from_json",
    "report_to_json",
    "run_gate",
    "summary",
    "worst",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
