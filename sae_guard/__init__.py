"""Gate releases of sparse autoencoders: ``pytest --sae checkpoint.pt``.

From Python, ``sae_guard.measure(...)`` measures the same without pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_guard.api import diagnose, load_sae, measure, measure_all
    from sae_guard.core.comparison import compare
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.verdicts import Verdict, judge
    from sae_guard.corpus import Corpus
    from sae_guard.errors import SaeGuardError
    from sae_guard.model import LanguageModel, load_model
    from sae_guard.sae import SAE

# Resolved on first use: the pytest plugin imports this package in every pytest run.
_HOME = {
    "SAE": "sae",
    "Corpus": "corpus",
    "LanguageModel": "model",
    "Measurement": "core.measurement",
    "SaeGuardError": "errors",
    "Threshold": "core.thresholds",
    "Verdict": "core.verdicts",
    "compare": "core.comparison",
    "diagnose": "api",
    "judge": "core.verdicts",
    "load_model": "model",
    "load_sae": "api",
    "measure": "api",
    "measure_all": "api",
}

__all__ = [
    "SAE",
    "Corpus",
    "LanguageModel",
    "Measurement",
    "SaeGuardError",
    "Threshold",
    "Verdict",
    "compare",
    "diagnose",
    "judge",
    "load_model",
    "load_sae",
    "measure",
    "measure_all",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
