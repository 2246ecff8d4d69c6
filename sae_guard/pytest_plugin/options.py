"""The options of the plugin, read into one frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pytest

from sae_guard.errors import Option
from sae_guard.gate.options import (
    ALPHA,
    CACHE_GIB,
    DEVICE,
    DEVICES,
    EarlyOptions,
    GateOptions,
    number_or_text,
)
from sae_guard.gate.project import SPECS
from sae_guard.pytest_plugin.spelling import SPELLINGS

OPTIONS = pytest.StashKey["Options"]()

EXIT_ERROR = 2
"""Exit code of a run without a verdict: spec, checkpoint, model or machine is at fault.

A crossed threshold ends with 1, pytest's own code for failed tests.
"""

_SAE_KEYS: tuple[Option, ...] = ("architecture", "k", "pre_bias", "normalize", "scale")
"""Keys of the `sae` block of a spec that are options too."""


@dataclass(frozen=True)
class Options:
    """Options of the command line and the ini file."""

    gate: GateOptions
    json: Path | None
    """File to write the report of the run to; None for no file."""

    @classmethod
    def from_config(cls, config: pytest.Config) -> Options:
        """Read the options of a run."""
        folder = config.invocation_params.dir
        json = config.getoption("sae_json")
        sae = {key: config.getoption(SPELLINGS[key]) for key in _SAE_KEYS}
        names = ("device", "batch_size", "reference", "cache", "cache_gib", "controls", "diagnose",
                 "baseline", "record", "hook")  # fmt: skip
        early = [field.name for field in fields(EarlyOptions) if field.name != "never"]
        gate = GateOptions(
            root=config.rootpath,
            here=folder,
            checkpoints=tuple(config.getoption("sae")),
            members=_by_name(config.getoption("sae_member")),
            release_root=config.getoption("sae_root"),
            specs=tuple(config.getoption("sae_spec")),
            spec_globs=tuple(config.getini("sae_specs")),
            sae={key: value for key, value in sae.items() if value is not None},
            early=EarlyOptions(**{name: config.getoption(f"sae_{name}") for name in early}),
            history=config.getini("sae_history") or None,
            **{name: config.getoption(f"sae_{name}") for name in names},
        )
        return cls(gate, folder / json if json else None)


def _by_name(members: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Map names to checkpoints; raises `pytest.UsageError` where two have one name."""
    by_name: dict[str, str] = {}
    for name, checkpoint in members:
        if by_name.setdefault(name, checkpoint) != checkpoint:
            raise pytest.UsageError(
                f"--sae-member {name} names {by_name[name]} and {checkpoint}; allowed: one of them"
            )
    return by_name


def add_options(parser: pytest.Parser) -> None:
    """Declare the options in ``pytest --help``."""
    group = parser.getgroup("sae-guard", "gate of SAE releases")
    group.addoption(
        "--sae",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="checkpoint to gate: a file, a folder, a glob, or the folder of a sae_release.yaml; "
        "repeatable",
    )
    _add_member_options(group)
    group.addoption(
        "--sae-spec",
        action="append",
        default=[],
        metavar="SPEC",
        help="gate by this spec only: a YAML file, or its name in the spec folder; repeatable",
    )
    group.addoption(
        "--sae-device",
        default="auto",
        metavar="DEVICE",
        type=device,
        help="measure on this device: auto (cuda, mps or cpu), cpu, mps, cuda or cuda:N; xdist "
        "workers take the GPUs in turn",
    )
    group.addoption(
        "--sae-batch-size",
        metavar="N",
        type=partial(positive_integer, "--sae-batch-size"),
        help="token windows per forward pass (default: depends on their length and the device)",
    )
    _add_run_options(group)
    _add_early_options(group)
    _add_history_options(parser, group)
    _add_sae_options(group)
    parser.addini(
        "sae_specs",
        "globs of the spec files, relative to the root folder",
        type="args",
        default=list(SPECS),
    )


def _add_member_options(group: pytest.OptionGroup) -> None:
    """Declare options on the names of checkpoints within a release."""
    group.addoption(
        "--sae-member",
        action="append",
        default=[],
        metavar="NAME=CHECKPOINT",
        type=member,
        help="gate this checkpoint under a name of its own within the release; repeatable",
    )
    group.addoption(
        "--sae-root",
        metavar="FOLDER",
        help="folder of the release: the path of a checkpoint below it is its name",
    )


def _add_run_options(group: pytest.OptionGroup) -> None:
    """Declare options on what to measure and write beside the verdicts."""
    group.addoption(
        "--sae-json",
        metavar="FILE",
        help="write the report of the run to this JSON file",
    )
    group.addoption(
        "--sae-controls",
        action="store_true",
        help="measure controls with known results (identity, zero, mean) and null models (permuted "
        "decoder, random directions, random errors) beside the checkpoint",
    )
    group.addoption(
        "--sae-diagnose",
        action="store_true",
        help="try other hook points and settings (pre-bias, normalisation, scale, architecture, k) "
        "on one batch, and name those that fit the checkpoint better",
    )
    group.addoption(
        "--sae-reference",
        action="store_true",
        help="audit: run the whole model for every number, instead of the blocks that the hook "
        "point changes",
    )
    group.addoption(
        "--sae-cache",
        metavar="FOLDER|off",
        help="cache clean runs and unfinished measurements in this folder, or not at all (default: "
        "$SAE_GUARD_CACHE, or the user's cache folder)",
    )
    group.addoption(
        "--sae-cache-gib",
        default=CACHE_GIB,
        metavar="GIB",
        type=partial(number, "--sae-cache-gib"),
        help=f"size limit of the cache (default: {CACHE_GIB}); the least recently used goes first",
    )


def _add_history_options(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    """Declare options on the record of the run and on its baseline."""
    group.addoption(
        "--sae-record",
        metavar="NAME",
        help="record measurements, thresholds and verdicts as this version, such as v1.2, in the "
        "folder of the ini option sae_history",
    )
    parser.addini(
        "sae_history",
        "folder of the records, relative to the root folder, or a URL that fsspec supports "
        "(default: $SAE_GUARD_HISTORY, or .sae_guard/history)",
        default="",
    )
    group.addoption(
        "--sae-baseline",
        metavar="VERSION",
        help="compare max_increase and max_decrease with this version: a promoted label, or a "
        "record's name or id (default: `baseline` in the spec); for the first version, none leaves "
        "these thresholds out",
    )


def _add_sae_options(group: pytest.OptionGroup) -> None:
    """Declare options for facts that a checkpoint may not contain; a spec has the same keys."""
    group.addoption(
        "--sae-arch",
        metavar="NAME",
        help="architecture of the SAE, as `sae: {architecture: …}` in a spec",
    )
    group.addoption(
        "--sae-k",
        metavar="K",
        type=partial(positive_integer, "--sae-k"),
        help="number of active latents of a TopK SAE",
    )
    group.addoption(
        "--sae-pre-bias",
        metavar="true|false",
        type=partial(flag, "--sae-pre-bias"),
        help="true if the SAE subtracts b_dec from its input",
    )
    group.addoption("--sae-norm", metavar="NAME", help="normalisation of the SAE's input")
    group.addoption(
        "--sae-scale",
        metavar="FACTOR",
        type=number_or_text,
        help="factor on the SAE's input: a number, folded or stored",
    )
    group.addoption(
        "--sae-hook",
        metavar="HOOK[:HOOK_OUT]",
        help="hook point of checkpoints that do not declare it; for a transcoder, also the one it "
        "replaces",
    )


def _add_early_options(group: pytest.OptionGroup) -> None:
    """Declare the options of early verdicts."""
    group.addoption(
        "--sae-fast",
        action="store_true",
        help="stop as soon as every verdict is reached; it differs from that of the whole token "
        "set with a chance of at most α",
    )
    group.addoption(
        "--sae-alpha",
        metavar="ALPHA",
        type=partial(number, "--sae-alpha", maximum=0.5),
        help=f"α of --sae-fast (default: the spec's, or {ALPHA}); implies --sae-fast",
    )
    group.addoption(
        "--sae-audit",
        action="store_true",
        help="measure all sequences nevertheless, and say whether the early verdicts hold",
    )
    group.addoption(
        "--sae-max-seconds",
        metavar="SECONDS",
        type=partial(number, "--sae-max-seconds"),
        help="end a measurement after this time; open verdicts are undecided then; implies "
        "--sae-fast",
    )
    group.addoption(
        "--sae-max-sequences",
        metavar="N",
        type=partial(positive_integer, "--sae-max-sequences"),
        help="end a measurement after the shard with the Nth sequence; open verdicts are undecided "
        "then; implies --sae-fast",
    )


def positive_integer(option: str, text: str) -> int:
    """Parse a whole number from 1 on; raises `pytest.UsageError`."""
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"{option} {text!r}; allowed: a whole number from 1 on")
    return int(text)


def number(option: str, text: str, *, maximum: float = math.inf) -> float:
    """Parse a number above 0 and below a maximum; raises `pytest.UsageError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < maximum:  # NaN is refused too
        upper = "" if math.isinf(maximum) else f" and below {maximum:g}"
        raise pytest.UsageError(f"{option} {text!r}; allowed: a number above 0{upper}")
    return value


def flag(option: str, text: str) -> bool:
    """Parse ``true`` or ``false``; raises `pytest.UsageError`."""
    if text not in ("true", "false"):
        raise pytest.UsageError(f"{option} {text!r}; allowed: true, false")
    return text == "true"


def device(text: str) -> str:
    """Check the form of a device; the session checks whether the machine has it."""
    if not DEVICE.fullmatch(text):
        raise pytest.UsageError(f"--sae-device {text!r}; allowed: {DEVICES}")
    return text


def member(text: str) -> tuple[str, str]:
    """Parse ``NAME=CHECKPOINT``; raises `pytest.UsageError`."""
    name, sign, checkpoint = text.partition("=")
    if not sign or not name.strip() or not checkpoint:
        raise pytest.UsageError(f"--sae-member {text!r}; expected NAME=CHECKPOINT")
    return name.strip(), checkpoint
