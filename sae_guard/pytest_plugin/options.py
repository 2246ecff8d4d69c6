"""The plugin's options, ended in one frozen dataclass."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

OPTIONS = pytest.StashKey["Options"]()

_DEFAULT_SPECS = ("thresholds/*.yaml", "thresholds/*.yml")


@dataclass(frozen=True)
class Options:
    """What the command line and the ini file ask for."""

    checkpoints: tuple[str, ...]
    specs: tuple[str, ...]
    spec_globs: tuple[str, ...]
    device: str
    batch_size: int | None
    json: Path | None
    controls: bool
    root: Path
    here: Path
    """Folder that relative paths of the command line start from."""

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """The options of a run."""
        here = config.invocation_params.dir
        json = config.getoption("sae_json")
        return cls(
            checkpoints=tuple(config.getoption("sae")),
            specs=tuple(config.getoption("sae_spec")),
            spec_globs=tuple(config.getini("sae_specs")),
            device=config.getoption("sae_device"),
            batch_size=config.getoption("sae_batch_size"),
            json=here / json if json else None,
            controls=config.getoption("sae_controls"),
            root=config.rootpath,
            here=here,
        )

    @property
    def asked(self) -> bool:
        """Whether the command line asks for a gate."""
        return bool(self.checkpoints or self.specs)


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
        type=_device,
        help="auto (cuda, mps or cpu), cpu, mps, cuda or cuda:N; several GPUs are spread over "
        "xdist workers",
    )
    group.addoption(
        "--sae-batch-size",
        default=None,
        metavar="N",
        type=_positive,
        help="token windows per forward pass (default: chosen from the vocabulary size)",
    )
    group.addoption(
        "--sae-json", default=None, metavar="FILE", help="write all verdicts to this JSON file"
    )
    group.addoption(
        "--sae-controls",
        action="store_true",
        help="measure the identity and the zero SAE beside the checkpoint",
    )
    parser.addini(
        "sae_specs",
        "globs of the spec files, relative to the root folder",
        type="args",
        default=list(_DEFAULT_SPECS),
    )


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise pytest.UsageError(f"--sae-device {text!r}; allowed: auto, cpu, mps, cuda, cuda:N")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"--sae-batch-size {text!r}; allowed: a whole number from 1 on")
    return int(text)
