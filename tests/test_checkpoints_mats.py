"""mats_sae_training files: a pickled config of a package that is not installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.inert import Record
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError
from tests.checkpoint_files import example_sae, tensors_of

X = torch.linspace(-3, 4, 24).view(4, 6)
CONFIG: dict[str, Any] = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.{layer}.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "d_in": 6,
    "d_sae": 10,
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "prepend_bos": True,
}


def write(path: Path, config: Any, tensors: Any = None) -> Path:
    """A file as the training package writes it, without it being there afterwards."""
    package = types.ModuleType("sae_training")
    module = types.ModuleType("sae_training.config")

    class LanguageModelSAERunnerConfig:
        def __init__(self, **facts: Any) -> None:
            self.__dict__.update(facts)

    LanguageModelSAERunnerConfig.__module__ = "sae_training.config"
    LanguageModelSAERunnerConfig.__qualname__ = "LanguageModelSAERunnerConfig"
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # type: ignore[attr-defined]
    sys.modules |= {"sae_training": package, "sae_training.config": module}
    try:
        held = LanguageModelSAERunnerConfig(**config) if isinstance(config, dict) else config
        state = tensors_of(example_sae()) if tensors is None else tensors
        torch.save({"cfg": held, "state_dict": state}, path)
    finally:
        del sys.modules["sae_training"], sys.modules["sae_training.config"]
    return path


def test_the_config_is_read_as_a_record(tmp_path: Path) -> None:
    parameters = {n: torch.nn.Parameter(t) for n, t in tensors_of(example_sae()).items()}
    for number, tensors in enumerate((None, parameters)):
        sae = load(write(tmp_path / f"{number}.pt", CONFIG, tensors))
        assert torch.equal(sae(X).reconstruction, example_sae()(X).reconstruction)
        assert sae.source.format == "mats_sae_training"
        assert sae.identity["prepend_bos"] is True
    assert "sae_training" not in sys.modules


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "normalize_activations": True}, "expected_average_only_in"),
        ({**CONFIG, "activation_fn": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({**CONFIG, "d_sae": 11}, "d_sae is 11"),
        ({"d_sae": 10}, "has no d_in; it has: d_sae"),
        (3, "has no d_in; it has: nothing"),
    ],
)
def test_refusals(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path / "sae.pt", config))
    assert message in str(caught.value)


def test_transcoders_and_other_state_are_refused(tmp_path: Path) -> None:
    tensors = {**tensors_of(example_sae()), "b_dec_out": torch.zeros(6)}
    with pytest.raises(LoadError, match="b_dec_out: transcoders are not read yet"):
        load(write(tmp_path / "transcoder.pt", CONFIG, tensors))
    with pytest.raises(LoadError, match="state_dict is list"):
        load(write(tmp_path / "list.pt", CONFIG, [1]))


def test_a_record_keeps_its_state_and_nothing_else() -> None:
    record = Record(1, key=2)
    record.__setstate__({"a": 1})
    record.__setstate__((1, 2))
    assert vars(record) == {"a": 1}
