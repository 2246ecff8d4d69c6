"""The hooks of the pytest plugin.

Every pytest run in an environment with sae_guard imports this module, so it imports little, and
never torch.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sae_guard.gate.run_plan import RunPlan
from sae_guard.pytest_plugin.fixtures import (  # noqa: F401 pytest collects fixtures from this module
    parametrize,
    sae,
    sae_case,
    sae_corpus,
    sae_device,
    sae_measurement,
    sae_model,
)
from sae_guard.pytest_plugin.items import SpecFile, attach_report
from sae_guard.pytest_plugin.ledger import LedgerPlugin
from sae_guard.pytest_plugin.options import OPTIONS, Options, add_options
from sae_guard.pytest_plugin.plan import RUN_PLAN, gates, plan_of
from sae_guard.pytest_plugin.root import correct_root
from sae_guard.pytest_plugin.session import SHARED_FOLDER, WORKER_INPUT, prepare


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the plugin."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Correct the root folder, before conftests, the cache and node ids depend on it."""
    correct_root(early_config, early_config.known_args_namespace)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and check the plan before anything slow."""
    options = config.stash[OPTIONS] = Options.from_config(config)
    explicit = config.args_source is pytest.Config.ArgsSource.ARGS
    folder = config.invocation_params.dir
    named_files = [folder / arg.split("::")[0] for arg in config.args] if explicit else []
    # Collection reports malformed spec files as errors.
    plan = config.stash[RUN_PLAN] = RunPlan(
        options.gate, named_files=named_files, skip_malformed=True
    )
    prepare(config)
    # xdist gives its workers this attribute; the ledger is the controller's.
    if not hasattr(config, "workerinput"):
        ledger = LedgerPlugin(config, options)
        ledger.check_options()
        config.pluginmanager.register(ledger, "sae_guard.ledger")
    if options.gate.gates and not explicit:  # on xdist workers too: they parse the arguments again
        config.args = [str(path) for path in plan.spec_files]


@pytest.hookimpl(optionalhook=True)  # without xdist pytest knows no such hook
def pytest_configure_node(node: Any) -> None:
    """Tell each xdist worker the folder in which processes share results."""
    config: pytest.Config = node.config
    if SHARED_FOLDER not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="sae_guard-"))
        config.stash[SHARED_FOLDER] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    node.workerinput[WORKER_INPUT] = str(config.stash[SHARED_FOLDER])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Return a collector for a spec file of the run; None for other files."""
    if not gates(parent.config, file_path):
        return None
    # An explicit node id: outside the root folder, pytest gives files an empty one.
    node_id = parent.config.stash[RUN_PLAN].display(file_path)
    collector: pytest.Collector = SpecFile.from_parent(parent, path=file_path, nodeid=node_id)
    return collector


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests of the user that use the fixtures: one run per case."""
    parametrize(metafunc)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Attach the `CaseReport` of a gate test to the report of pytest."""
    report = yield
    attach_report(item, report)
    return report


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Return a line with the gated checkpoints and the specs that gate them."""
    options = config.stash[OPTIONS].gate
    if not options.gates:
        return None
    specs = dict.fromkeys(case.ref.spec_file for case in plan_of(config).cases)
    named = (f"{name}={checkpoint}" for name, checkpoint in options.members.items())
    checkpoints = ", ".join([*options.checkpoints, *named]) or "defaults"
    return [f"sae guard: {checkpoints} by {', '.join(specs) or 'no spec'}"]
