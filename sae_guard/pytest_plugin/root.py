"""Correct the root folder where pytest takes a checkpoint for a test path.

pytest determines its root folder and ini file before it knows the options of plugins. It takes the
PATH of ``--sae PATH`` for a test path; if that is outside the project, the root folder is wrong.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from sae_guard.gate.project import ini_file_of, is_ini, root_without_ini


def correct_root(config: pytest.Config, options: Namespace) -> None:
    """Set the root folder that the run would have without the options of this plugin.

    Raises:
        pytest.UsageError: pytest has read another ini file than that of the project. It is too late
            to correct that.
    """
    single = filter(None, [options.sae_json, options.sae_root])
    values = [*options.sae, *options.sae_spec, *single]
    if not values or options.rootdir or options.inifilename:
        return
    folder = config.invocation_params.dir
    paths = [folder / path.split("::")[0] for path in options.file_or_dir]
    start = Path(os.path.commonpath(paths)) if paths else folder
    ini = ini_file_of(start)
    read = config.inipath if config.inipath and is_ini(config.inipath) else None
    if ini != read:
        names = ("sae", "sae_spec", "sae_json", "sae_root")
        option = next(name for name in names if getattr(options, name))
        spelling = f"--{option.replace('_', '-')}"
        raise pytest.UsageError(
            f"pytest takes the value of {spelling} for a test path, looks for its root folder "
            f"there ({config.rootpath}) and reads {read or 'no ini file'} instead of "
            f"{ini or 'none'}; write {spelling}={values[0]}"
        )
    if ini is None:
        # Private, but pytest has no public way to change it once it is found.
        config._rootpath = root_without_ini(folder, start)
