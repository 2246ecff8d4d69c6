"""The project's folder, also where pytest takes a checkpoint for a test path.

pytest looks for its root folder and ini file before it knows the options of plugins. In
``--sae PATH`` it sees a test path, and where that lies outside of the project, it looks there.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from sae_guard.gate.project import ini_file_of, is_ini, root_without_ini


def mend_root(config: pytest.Config, given: Namespace) -> None:
    """Give the run the root folder that it would have without our options.

    Raises:
        pytest.UsageError: Another ini file was read than the project's, which cannot be mended.
    """
    values = [*given.sae, *given.sae_spec, *filter(None, [given.sae_json])]
    if not values or given.rootdir or given.inifilename:
        return
    here = config.invocation_params.dir
    paths = [here / path.split("::")[0] for path in given.file_or_dir]
    start = Path(os.path.commonpath(paths)) if paths else here
    ini = ini_file_of(start)
    read = config.inipath if config.inipath and is_ini(config.inipath) else None
    if ini != read:
        option = next(name for name in ("sae", "sae_spec", "sae_json") if getattr(given, name))
        written = f"--{option.replace('_', '-')}"
        raise pytest.UsageError(
            f"pytest takes the value of {written} for a test path, looks for its root folder "
            f"there ({config.rootpath}) and reads {read or 'no ini file'} instead of "
            f"{ini or 'none'}; write {written}={values[0]}"
        )
    if ini is None:
        config._rootpath = root_without_ini(here, start)
