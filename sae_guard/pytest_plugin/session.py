"""The workbench of a test process, made as the options say."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.gate.session import Workbench
from sae_guard.pytest_plugin.gate import GATE
from sae_guard.pytest_plugin.options import Options
from sae_guard.pytest_plugin.sharing import shared

if TYPE_CHECKING:
    from sae_guard.cache import Cache

WORKBENCH = pytest.StashKey[Workbench]()


def make_workbench(config: pytest.Config, options: Options, folder: Path | None) -> Workbench:
    """The workbench of this process; of an xdist worker, with what it shares in ``folder``."""
    asked: dict[str, Any] = {
        "device": options.device,
        "batch_size": options.batch_size,
        "reference": options.reference,
        "early": options.early,
        "cache": partial(_cache, options),
        "cases": lambda: config.stash[GATE].plan.cases,
    }
    if folder is None:
        # Capture is not on yet, so this is the terminal's stderr for good.
        progress = os.fdopen(os.dup(2), "w", encoding="utf-8")
        config.add_cleanup(progress.close)
        shown = progress if progress.isatty() and not os.environ.get("CI") else None
        return Workbench(**asked, progress=shown)
    worker_input: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    number = re.search(r"\d+$", worker_input["workerid"])
    worker = int(number.group()) if number else 0
    return Workbench(**asked, share=partial(shared, folder), worker=worker)


def _cache(options: Options) -> Cache | None:
    from sae_guard.cache import Cache, chosen_root

    root = chosen_root(options.cache)
    return Cache(options.here / root, int(options.cache_gib * 2**30)) if root else None
