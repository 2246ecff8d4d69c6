"""What measures the cases of a run: each once, after the load contract is held."""

from sae_guard.workbench.bench import DEVICE, DEVICES, Found, Workbench, pick_device
from sae_guard.workbench.early import ALPHA, EarlyOptions, Judged, Watch

__all__ = [
    "ALPHA",
    "DEVICE",
    "DEVICES",
    "EarlyOptions",
    "Found",
    "Judged",
    "Watch",
    "Workbench",
    "pick_device",
]
