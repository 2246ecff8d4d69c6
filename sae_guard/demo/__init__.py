"""The demo: a tiny language model and three releases of a sparse autoencoder on one of its hooks.

All of it is trained by ``python -m sae_guard.demo.train`` on the source code of the Python standard
library, read from the running installation. The three releases tell the story that a gate is for:

* ``v1``, a decent first release (TopK);
* ``v2``, better at the same number of active latents (BatchTopK, saved as JumpReLU);
* ``v3``, a regression: v2's recipe, stopped far too early. The file is in order, the SAE is not.

This module holds names and paths only, so that importing it costs nothing.
"""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""Folder of the model and its tokenizer, in the format of Hugging Face."""

SAES = Path(__file__).parent / "saes"
"""Folder of the SAEs, one folder each (``v1``, ``v2``, ``v3``), in the format of SAELens 6."""

HOOK_NAME = "blocks.2.hook_resid_post"
"""Where all three SAEs read and write, as TransformerLens names it."""

CONTEXT_SIZE = 128
"""Tokens in a window, the beginning-of-sequence token included."""

# Top-level modules that are one plain .py file in every CPython from 3.10 to 3.13.
HELD_OUT_MODULES = (
    "argparse",
    "bdb",
    "calendar",
    "configparser",
    "copy",
    "csv",
    "dataclasses",
    "difflib",
    "dis",
    "doctest",
    "enum",
    "fractions",
    "ftplib",
    "gettext",
    "heapq",
    "imaplib",
    "ipaddress",
    "mailbox",
    "optparse",
    "pickletools",
    "plistlib",
    "pprint",
    "random",
    "shutil",
    "smtplib",
    "statistics",
    "subprocess",
    "tarfile",
    "textwrap",
    "threading",
    "trace",
    "uuid",
)
"""Modules of the standard library that neither the model nor the SAEs were trained on."""
