"""Gate releases of sparse autoencoders: ``pytest --sae checkpoint.pt``.

From Python, ``sae_guard.run_gate(...)`` runs the same gate, and ``sae_guard.measure(...)`` measures
without any spec. What is listed here, `sae_guard.errors` and `sae_guard.testing` is public
(`docs/api.md`); every other module is private and may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_guard.api import (
        diagnose as diagnose,
        load_sae as load_sae,
        measure as measure,
        measure_all as measure_all,
        run_gate as run_gate,
    )
    from sae_guard.checkpoints.options import SaeOptions as SaeOptions
    from sae_guard.core.comparison import (
        Baseline as Baseline,
        Change as Change,
        Comparison as Comparison,
        MetricMove as MetricMove,
        Moved as Moved,
        MovedSequence as MovedSequence,
        MovedToken as MovedToken,
        NotComparableError as NotComparableError,
        Version as Version,
        compare as compare,
    )
    from sae_guard.core.diagnosis import Diagnosis as Diagnosis, Suspicion as Suspicion
    from sae_guard.core.measurement import (
        Around as Around,
        Excerpts as Excerpts,
        FiringSpread as FiringSpread,
        Measurement as Measurement,
        Provenance as Provenance,
        TokenKL as TokenKL,
        TokenTable as TokenTable,
    )
    from sae_guard.core.pareto import (
        Pareto as Pareto,
        ParetoVerdict as ParetoVerdict,
        Point as Point,
    )
    from sae_guard.core.report import (
        CaseRef as CaseRef,
        CaseReport as CaseReport,
        ContractResult as ContractResult,
        ControlsResult as ControlsResult,
        MetricValue as MetricValue,
        NotGated as NotGated,
        NotJudged as NotJudged,
        ParetoResult as ParetoResult,
        RecordResult as RecordResult,
        RunReport as RunReport,
        Sample as Sample,
    )
    from sae_guard.core.report_json import (  # noqa: F401 renamed for users
        from_json as report_from_json,
        to_json as report_to_json,
    )
    from sae_guard.core.statistics import Estimate as Estimate
    from sae_guard.core.targets import Slice as Slice, Target as Target, estimate as estimate
    from sae_guard.core.threshold_changes import (
        LoosenedThresholds as LoosenedThresholds,
        ThresholdChange as ThresholdChange,
    )
    from sae_guard.core.thresholds import Threshold as Threshold
    from sae_guard.core.verdicts import Progress as Progress, Verdict as Verdict, judge as judge
    from sae_guard.core.worst_tokens import (
        Worst as Worst,
        WorstSequence as WorstSequence,
        WorstToken as WorstToken,
        worst as worst,
    )
    from sae_guard.corpus import Corpus as Corpus
    from sae_guard.corpus.windows import Document as Document
    from sae_guard.errors import (
        InfrastructureError as InfrastructureError,
        LoadError as LoadError,
        SaeGuardError as SaeGuardError,
        SetupError as SetupError,
        SpecError as SpecError,
        UndefinedMetricError as UndefinedMetricError,
    )
    from sae_guard.gate.options import EarlyOptions as EarlyOptions
    from sae_guard.history import HistoryError as HistoryError
    from sae_guard.model import LanguageModel as LanguageModel, load_model as load_model
    from sae_guard.render import summary as summary
    from sae_guard.sae import SAE as SAE, SaeSource as SaeSource
    from sae_guard.sae.activations import (
        AbsTopK as AbsTopK,
        Gated as Gated,
        GroupMax as GroupMax,
        JumpReLU as JumpReLU,
        ReLU as ReLU,
        Selected as Selected,
        TanhReLU as TanhReLU,
        TopK as TopK,
    )
    from sae_guard.sae.autoencoder import Normalised as Normalised, SaeOutput as SaeOutput

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
    "core.report_json": "report_from_json=from_json report_to_json=to_json",
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
    "sae.activations": "AbsTopK Gated GroupMax JumpReLU ReLU Selected TanhReLU TopK",
    "sae.autoencoder": "Normalised SaeOutput",
}
"""Module → the public names that are there, with their name in the module where that is another."""

_PLACES = {
    public: (module, name or public)
    for module, names in _HOMES.items()
    for public, _, name in (entry.partition("=") for entry in names.split())
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
