"""The pytest plugin: hooks only. Nothing here imports torch, and little imports anything.

Every pytest run of an environment with sae_guard installed imports this module.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sae_guard.gate.run_plan import RunPlan
from sae_guard.pytest_plugin.fixtures import (  # noqa: F401 pytest finds fixtures by name here
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
from sae_guard.pytest_plugin.root import mend_root
from sae_guard.pytest_plugin.session import SHARED_FOLDER, WORKER_INPUT, prepare


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before conftests, the cache and node ids depend on it, see to the root folder."""
    mend_root(early_config, early_config.known_args_namespace)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and check the plan before anything slow."""
    options = config.stash[OPTIONS] = Options.from_config(config)
    explicit = config.args_source is pytest.Config.ArgsSource.ARGS
    here = config.invocation_params.dir
    named = [here / arg.split("::")[0] for arg in config.args] if explicit else []
    # A malformed spec file is a collection error of its own.
    plan = config.stash[RUN_PLAN] = RunPlan(options.gate, named_files=named, skip_malformed=True)
    prepare(config)
    if not hasattr(config, "workerinput"):
        ledger = LedgerPlugin(config, options)
        ledger.check_options()
        config.pluginmanager.register(ledger, "sae_guard.ledger")
    if options.gate.gates and not explicit:  # on workers too: they parse the command line anew
        config.args = [str(path) for path in plan.spec_files]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each xdist worker the folder in which measurements are shared."""
    config: pytest.Config = node.config
    if SHARED_FOLDER not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="sae_guard-"))
        config.stash[SHARED_FOLDER] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    node.workerinput[WORKER_INPUT] = str(config.stash[SHARED_FOLDER])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the spec files of the run."""
    if not gates(parent.config, file_path):
        return None
    # Named by us: outside of the root folder pytest gives files an empty node id.
    node_id = parent.config.stash[RUN_PLAN].display(file_path)
    collector: pytest.Collector = SpecFile.from_parent(parent, path=file_path, nodeid=node_id)
    return collector


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run people's own tests once per case."""
    parametrize(metafunc)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Let the reports of our tests carry what they found."""
    report = yield
    attach_report(item, report)
    return report


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Say what is gated."""
    options = config.stash[OPTIONS].gate
    if not options.gates:
        return None
    specs = dict.fromkeys(case.ref.spec_file for case in plan_of(config).cases)
    checkpoints = ", ".join(options.checkpoints) or "defaults"
    return [f"sae guard: {checkpoints} by {', '.join(specs) or 'no spec'}"]
