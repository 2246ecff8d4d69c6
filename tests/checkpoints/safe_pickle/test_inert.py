"""Objects become inert objects without their code, however they were written."""

from __future__ import annotations

import io
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sae_guard.checkpoints.safe_pickle.inert import InertObject, Unpickler, check_plain
from sae_guard.checkpoints.safe_pickle.sizes import Stream
from sae_guard.checkpoints.tensor_files import read_entries
from tests.helpers.pickled_files import WAYS, written


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_is_a_record_of_its_parts(tmp_path: Path, how: str) -> None:
    first = nn.Linear(3, 2)
    module = nn.Sequential(first, nn.BatchNorm1d(2))
    inert = read_entries(written(how, module, tmp_path / "sae.pt"))["__record__"]
    assert isinstance(inert, InertObject)
    assert (type(inert).__module__, type(inert).__name__) == (
        "torch.nn.modules.container",
        "Sequential",
    )
    linear = vars(inert)["_modules"]["0"]
    assert torch.equal(vars(linear)["_parameters"]["weight"], first.weight)
    assert torch.equal(vars(vars(inert)["_modules"]["1"])["_buffers"]["running_var"], torch.ones(2))
    assert vars(linear)["in_features"] == 3


@pytest.mark.parametrize("how", WAYS)
def test_foreign_objects_in_a_config(tmp_path: Path, how: str) -> None:
    config = Namespace(
        d_in=6,
        device=torch.device("cuda:0"),
        dtype=torch.float32,
        shape=torch.Size([2, 3]),
        scale=np.float32(0.5),
        path=Path("a"),
        counts=defaultdict(int, a=1),
    )
    inert = read_entries(written(how, {"cfg": config}, tmp_path / "sae.pkl"))["cfg"]
    assert isinstance(inert, InertObject)
    facts = vars(inert)
    assert (facts["d_in"], facts["dtype"], facts["shape"]) == (6, torch.float32, (2, 3))
    assert all(
        isinstance(facts[name], InertObject) for name in ("device", "scale", "path", "counts")
    )
    assert vars(facts["counts"])["__items__"] == {"a": 1}
    assert repr(inert) == "<inert object of argparse.Namespace>"


def test_what_is_plain() -> None:
    shared = [1] * 1000
    check_plain({"a": [shared] * 900, "b": (1, {2}, None, InertObject())})
    with pytest.raises(ValueError, match="more than 1,000,000"):
        check_plain([shared] * 1000)
    loop = InertObject()
    vars(loop)["self"] = {"a": loop}  # a module may know its parent
    check_plain(loop)
    vars(loop)["deep"] = {"a": 10**400}
    with pytest.raises(ValueError, match="300 digits"):
        check_plain({"cfg": loop})


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.exec", "builtins.getattr", "torch.load", "torch.hub.load",
     "torch.storage._load_from_bytes", "subprocess.Popen", "sae_guard.cli.main"],
)  # fmt: skip
def test_every_other_global_is_a_record(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    cls = Unpickler(Stream(io.BytesIO(), 0)).find_class(module, attribute)
    assert issubclass(cls, InertObject)
    assert isinstance(cls("rm", shell=True), InertObject)
