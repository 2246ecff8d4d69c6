"""Write objects as torch and pickle do, in each of their ways."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import torch

WAYS = ["zip", "old", "gz", "protocol 2", "protocol 3", "protocol 4", "protocol 5"]
OLD = {"_use_new_zipfile_serialization": False}


def written(how: str, content: Any, path: Path) -> Path:
    """Write the object to a file in one of `WAYS`."""
    if how == "zip":
        torch.save(content, path)
    elif how == "old":
        torch.save(content, path, **OLD)
    elif how == "gz":
        path.write_bytes(gzip.compress(pickle.dumps(content)))
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    return path
