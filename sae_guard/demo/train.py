"""Train the demo's model and SAEs anew: ``python -m sae_guard.demo.train [--out DIR]``.

It takes about ten minutes on two cores. The same machine and version of torch give the same files;
another processor may round differently.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from sae_guard.demo import MODEL, SAES
from sae_guard.demo.language_model import (
    cut_windows,
    next_token_loss,
    tokenize,
    train_language_model,
    train_tokenizer,
)
from sae_guard.demo.release import write_language_model, write_sparse_autoencoder
from sae_guard.demo.sparse_autoencoders import (
    Recipe,
    collect_activations,
    scale_of,
    train_sparse_autoencoder,
)
from sae_guard.demo.text import held_out_documents, training_documents

logger = logging.getLogger(__name__)

_SEED = 0
_THREADS = 2
"""Threads of torch, fixed because the order of additions, and so their rounding, depends on it."""
_LANGUAGE_MODEL_STEPS = 1800
_SAE_WINDOWS = 8192
_HELD_OUT_WINDOWS = 256

RELEASES = {
    "v1": Recipe(selection="per_token", steps=400, peak_learning_rate=2e-3),
    "v2": Recipe(selection="per_batch", steps=1_000),
    "v3": Recipe(selection="per_batch", steps=200),
}


def _sample(windows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` windows, drawn without replacement."""
    return windows[torch.randperm(len(windows), generator=generator)[:count]]


def train(out: Path) -> None:
    """Train everything and write ``out/model`` and ``out/saes/{v1,v2,v3}``."""
    torch.set_num_threads(_THREADS)
    torch.manual_seed(_SEED)
    generator = torch.Generator().manual_seed(_SEED)

    texts = [document.text for document in training_documents()]
    tokenizer = train_tokenizer(texts)
    documents = tokenize(tokenizer, texts)
    logger.info("%d texts, %d tokens", len(texts), sum(map(len, documents)))
    model = train_language_model(
        documents,
        vocabulary_size=len(tokenizer),
        steps=_LANGUAGE_MODEL_STEPS,
        generator=generator,
    )
    held_out = cut_windows(
        tokenize(tokenizer, (document.text for document in held_out_documents()))
    )
    with torch.no_grad():
        loss = next_token_loss(model, _sample(held_out, _HELD_OUT_WINDOWS, generator))
    logger.info("language model on held-out text: %.3f nats", loss.item())
    write_language_model(out / MODEL.name, model, tokenizer)

    # The three SAEs train on the same activations, one after another from one generator.
    windows = _sample(cut_windows(documents), _SAE_WINDOWS, generator)
    activations = collect_activations(model, windows)
    scale = scale_of(activations)
    activations *= scale
    for name, recipe in RELEASES.items():
        logger.info("SAE %s: %s", name, recipe)
        sae, threshold = train_sparse_autoencoder(activations, recipe, generator)
        write_sparse_autoencoder(out / SAES.name / name, sae, threshold=threshold, scale=scale)


def main() -> None:
    """Parse the command line and train everything."""
    parser = argparse.ArgumentParser(prog="python -m sae_guard.demo.train", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=MODEL.parent,
        help="folder to write model/ and saes/ into (default: the demo's own)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    start = time.monotonic()
    train(arguments.out)
    logger.info("done in %.0f s", time.monotonic() - start)


if __name__ == "__main__":
    main()
