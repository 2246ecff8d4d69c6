"""The pytest plugin: hooks only. Nothing here imports torch, and little imports anything.

Every pytest run of an environment with sae_guard installed imports this module.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.pytest_plugin.diagnoses import DIAGNOSES, Diagnoses
from sae_guard.pytest_plugin.fixtures import (  # noqa: F401 pytest finds fixtures by name here
    parametrize,
    sae,
    sae_case,
    sae_corpus,
    sae_device,
    sae_measurement,
    sae_model,
)
from sae_guard.pytest_plugin.gate import GATE, Gate
from sae_guard.pytest_plugin.items import SpecFile
from sae_guard.pytest_plugin.ledger import Ledger
from sae_guard.pytest_plugin.options import OPTIONS, Options, add_options
from sae_guard.pytest_plugin.recording import Recorder
from sae_guard.pytest_plugin.root import mend_root
from sae_guard.pytest_plugin.session import WORKBENCH, left, make_workbench
from sae_guard.pytest_plugin.tracking import Tracker
from sae_guard.pytest_plugin.versions import VERSIONS, Versions

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import Found

_SHARED = pytest.StashKey[Path]()
_WORKER_INPUT = "sae_guard_shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before conftests, the cache and node ids depend on it, see to the root folder."""
    mend_root(early_config, early_config.known_args_namespace)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, check the plan before anything slow, make the workbench."""
    options = config.stash[OPTIONS] = Options.of(config)
    explicit = config.args_source is pytest.Config.ArgsSource.ARGS
    named = tuple(_paths(config)) if explicit else ()
    gate = config.stash[GATE] = Gate(options, named)
    versions = config.stash[VERSIONS] = Versions.of(config, gate)
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is None:
        if options.asked:
            _check_plan(gate)
            versions.check()
        recorder = Recorder.of(config, gate, versions, partial(_found, config))
        ledger = Ledger(gate, versions, Tracker(config, gate), recorder)
        config.pluginmanager.register(ledger, "sae_guard.ledger")
        if options.json is not None:
            _make_folder_of(options.json, config)
    if options.asked and not explicit:  # on xdist workers too: they parse the command line anew
        config.args = [str(path) for path in gate.spec_files]
    shared = None if worker_input is None else Path(worker_input[_WORKER_INPUT])
    workbench = config.stash[WORKBENCH] = make_workbench(config, options, shared)
    config.stash[DIAGNOSES] = Diagnoses(workbench, thorough=options.diagnose, shared=shared)


def _found(config: pytest.Config, case: Case) -> Found | None:
    """What was measured of the case, here or by a worker."""
    folder = config.stash.get(_SHARED, None)
    if folder is None:
        return config.stash[WORKBENCH].kept(case)
    return left(folder / config.stash[OPTIONS].early.key(case), case)


def _check_plan(gate: Gate) -> None:
    """Fail before the slow part: no spec at all, or no case for a checkpoint."""
    if not gate.spec_files:
        globs = ", ".join(gate.options.spec_globs)
        raise pytest.UsageError(
            f"no spec gates {', '.join(gate.options.checkpoints)}: nothing matches {globs} in "
            f"{gate.options.root} (ini option `sae_specs`), and --sae-spec names none"
        )
    _ = gate.plan


def _make_folder_of(path: Path, config: pytest.Config) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise pytest.UsageError(f"--sae-json {config.getoption('sae_json')}: {error}") from None


def _paths(config: pytest.Config) -> list[Path]:
    here = config.invocation_params.dir
    return [here / arg.split("::")[0] for arg in config.args]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each xdist worker the folder in which measurements are shared."""
    config: pytest.Config = node.config
    if _SHARED not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="sae_guard-"))
        config.stash[_SHARED] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    node.workerinput[_WORKER_INPUT] = str(config.stash[_SHARED])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the spec files of the run."""
    gate = parent.config.stash[GATE]
    if not gate.owns(file_path):
        return None
    # Named by us: outside of the root folder pytest gives files an empty node id.
    collector: pytest.Collector = SpecFile.from_parent(
        parent, path=file_path, nodeid=gate.display(file_path)
    )
    return collector


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run people's own tests once per case."""
    parametrize(metafunc)


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Say what is gated."""
    gate = config.stash[GATE]
    if not gate.options.asked:
        return None
    gating = dict.fromkeys(case.spec.file for case in gate.plan.cases)
    specs = ", ".join(map(gate.display, gating)) or "no spec"
    return [f"sae guard: {', '.join(gate.options.checkpoints) or 'defaults'} by {specs}"]
