"""The plugin's options, ended in one frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from sae_guard.gate.options import (
    ALPHA,
    CACHE_GIB,
    DEVICE,
    DEVICES,
    EarlyOptions,
    GateOptions,
)
from sae_guard.gate.project import SPECS

OPTIONS = pytest.StashKey["Options"]()

EXIT_ERROR = 2
"""No verdict could be reached: the spec, the checkpoint, the model or the machine is at fault.

1 is pytest's own code for failed tests: a threshold is crossed.
"""

_SAE_OPTIONS = {
    "architecture": "sae_arch",
    "k": "sae_k",
    "pre_bias": "sae_pre_bias",
    "normalize": "sae_norm",
    "scale": "sae_scale",
}


@dataclass(frozen=True)
class Options:
    """What the command line and the ini file ask for."""

    gate: GateOptions
    json: Path | None
    """Where to write the report of the run."""

    @classmethod
    def from_config(cls, config: pytest.Config) -> Options:
        """Read the options of a run."""
        here = config.invocation_params.dir
        json = config.getoption("sae_json")
        said = {key: config.getoption(option) for key, option in _SAE_OPTIONS.items()}
        names = ("device", "batch_size", "reference", "cache", "cache_gib", "controls", "diagnose",
                 "baseline", "record", "hook")  # fmt: skip
        gate = GateOptions(
            root=config.rootpath,
            here=here,
            checkpoints=tuple(config.getoption("sae")),
            specs=tuple(config.getoption("sae_spec")),
            spec_globs=tuple(config.getini("sae_specs")),
            sae={key: value for key, value in said.items() if value is not None},
            early=early_options(config),
            history=config.getini("sae_history") or None,
            **{name: config.getoption(f"sae_{name}") for name in names},
        )
        return cls(gate, here / json if json else None)


def add_options(parser: pytest.Parser) -> None:
    """Declare the options in ``pytest --help``."""
    group = parser.getgroup("sae-guard", "gate of SAE releases")
    group.addoption(
        "--sae",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="checkpoint to gate: a file, a folder, or a glob; repeatable",
    )
    group.addoption(
        "--sae-spec",
        action="append",
        default=[],
        metavar="SPEC",
        help="gate by this spec only: a YAML file, or the name of one in the spec folder; "
        "repeatable",
    )
    group.addoption(
        "--sae-device",
        default="auto",
        metavar="DEVICE",
        type=device,
        help="auto (cuda, mps or cpu), cpu, mps, cuda or cuda:N; several GPUs are spread over "
        "xdist workers",
    )
    group.addoption(
        "--sae-batch-size",
        default=None,
        metavar="N",
        type=whole("--sae-batch-size"),
        help="token windows per forward pass (default: chosen by their length and the device)",
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


def _add_run_options(group: pytest.OptionGroup) -> None:
    """What is measured and written beside the verdicts."""
    group.addoption(
        "--sae-json", default=None, metavar="FILE", help="write all verdicts to this JSON file"
    )
    group.addoption(
        "--sae-controls",
        action="store_true",
        help="measure controls beside the checkpoint: what is known beforehand (identity, zero, "
        "mean) and what null models get (permuted decoder, random directions, random errors)",
    )
    group.addoption(
        "--sae-diagnose",
        action="store_true",
        help="try on one batch what else the checkpoint and its place could be (hook points, "
        "pre-bias, normalisation, scale, architecture, k), and name what fits",
    )
    group.addoption(
        "--sae-reference",
        action="store_true",
        help="audit: run the whole model for everything instead of what the hook point changes",
    )
    group.addoption(
        "--sae-cache",
        default=None,
        metavar="FOLDER|off",
        help="where to remember clean runs and how far measurements are (default: "
        "$SAE_GUARD_CACHE, or the user's cache folder)",
    )
    group.addoption(
        "--sae-cache-gib",
        default=CACHE_GIB,
        metavar="GIB",
        type=number("--sae-cache-gib"),
        help=f"what the cache may hold (default: {CACHE_GIB}); the least recently used goes first",
    )


def _add_history_options(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    """What is recorded, and which record is compared with."""
    group.addoption(
        "--sae-record",
        default=None,
        metavar="NAME",
        help="keep what is measured as a record of this version, such as v1.2, with thresholds and "
        "verdicts, in the folder of the ini option sae_history",
    )
    parser.addini(
        "sae_history",
        "folder of the records, relative to the root folder, or any URL that fsspec knows "
        "(default: $SAE_GUARD_HISTORY, or .sae_guard/history)",
        default="",
    )
    group.addoption(
        "--sae-baseline",
        default=None,
        metavar="VERSION",
        help="recorded version that max_increase and max_decrease compare with: a label that was "
        "promoted, or a record's name or id (default: `baseline` in the spec); none leaves these "
        "thresholds out, for the first version",
    )


def _add_sae_options(group: pytest.OptionGroup) -> None:
    """What a checkpoint may be unable to say of itself; the spec has the same keys."""
    group.addoption(
        "--sae-arch", metavar="NAME", help="architecture, as `sae: {architecture: …}` in a spec"
    )
    group.addoption(
        "--sae-k", metavar="K", type=whole("--sae-k"), help="active latents of a TopK SAE"
    )
    group.addoption(
        "--sae-pre-bias",
        metavar="true|false",
        type=flag("--sae-pre-bias"),
        help="whether b_dec is taken off the input",
    )
    group.addoption("--sae-norm", metavar="NAME", help="normalisation of the input")
    group.addoption(
        "--sae-scale",
        metavar="FACTOR",
        type=number_or_text,
        help="what the input is multiplied by: a number, folded or stored",
    )
    group.addoption(
        "--sae-hook",
        metavar="HOOK[:HOOK_OUT]",
        help="hook point (and, for a transcoder, the one it replaces) of checkpoints that do not "
        "say it",
    )


def early_options(config: pytest.Config) -> EarlyOptions:
    """Read what the command line says of early verdicts."""
    names = [field.name for field in fields(EarlyOptions) if field.name != "never"]
    return EarlyOptions(**{name: config.getoption(f"sae_{name}") for name in names})


def _add_early_options(group: pytest.OptionGroup) -> None:
    """Declare the options."""
    group.addoption(
        "--sae-fast",
        action="store_true",
        help="stop as soon as every verdict is that of the whole token set but for a chance of α",
    )
    group.addoption(
        "--sae-alpha",
        metavar="ALPHA",
        type=number("--sae-alpha", below=0.5),
        help=f"α of --sae-fast, which this implies (default: the spec's, or {ALPHA})",
    )
    group.addoption(
        "--sae-audit",
        action="store_true",
        help="run to the end all the same, and say whether the early verdicts hold",
    )
    group.addoption(
        "--sae-max-seconds",
        metavar="SECONDS",
        type=number("--sae-max-seconds"),
        help="end a measurement after this long; what is not decided by then is undecided "
        "(implies --sae-fast)",
    )
    group.addoption(
        "--sae-max-sequences",
        metavar="N",
        type=whole("--sae-max-sequences"),
        help="end a measurement with the shard in which the Nth sequence is; what is not decided "
        "by then is undecided (implies --sae-fast)",
    )


def whole(option: str) -> Callable[[str], int]:
    """A whole number from 1 on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise pytest.UsageError(f"{option} {text!r}; allowed: a whole number from 1 on")
        return int(text)

    return parse


def number(option: str, *, above: float = 0, below: float = math.inf) -> Callable[[str], float]:
    """A number between the two."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value < below:
            most = "" if math.isinf(below) else f" and below {below:g}"
            raise pytest.UsageError(f"{option} {text!r}; allowed: a number above {above:g}{most}")
        return value

    return parse


def flag(option: str) -> Callable[[str], bool]:
    """``true`` or ``false``."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise pytest.UsageError(f"{option} {text!r}; allowed: true, false")
        return text == "true"

    return parse


def number_or_text(text: str) -> float | str:
    """A number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def device(text: str) -> str:
    """Read a device; whether the machine has it is found out later."""
    if not DEVICE.fullmatch(text):
        raise pytest.UsageError(f"--sae-device {text!r}; allowed: {DEVICES}")
    return text
