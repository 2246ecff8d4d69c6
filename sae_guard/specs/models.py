"""Pydantic models of a spec document; validation and `json_schema` both follow from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.targets import Slice
from sae_guard.files import expanded
from sae_guard.specs.strict_yaml import KeyPath
from sae_guard.specs.thresholds import (
    PARETO,
    BoundsModel,
    ParetoModel,
    SliceModel,
    Strict,
    Thresholds,
)
from sae_guard.specs.values import (
    DeviceMap,
    Interval,
    SpecialTokens,
    Text,
    Texts,
    require_value,
    shorthand,
    value_error,
)

SOURCES = ("text", "jsonl", "tokens", "dataset", "modules")
"""Keys of ``data`` that name where the tokens come from."""


class ModelSpec(Strict):
    """The language model, and whether its weights are used raw or folded."""

    name: Text = Field(
        description="Hugging Face name, or a folder relative to the spec file, with ./ or ../."
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="Precision of the model; metrics are float32 or better."
    )
    processing: Literal["raw", "hooked"] = Field(
        "raw",
        description="raw weights, or hooked: folded and centred as HookedTransformer does by "
        "default, which SAEs trained on it need (gpt2-small-res-jb).",
    )
    revision: Text | None = Field(None, description="Branch, tag or commit on the hub.")
    aliases: Texts = Field(
        (), description="Other names by which checkpoints call this model.", validate_default=False
    )
    device_map: DeviceMap | None = Field(
        None,
        description="Spread the model over devices (accelerate): auto, balanced, …, or a mapping "
        "of module names to GPU numbers, or to cpu and disk. Default: on the run's device.",
    )

    @property
    def placement(self) -> str | dict[str, int | str] | None:
        """The ``device_map`` as transformers takes it."""
        device_map = self.device_map
        return dict(device_map) if isinstance(device_map, tuple) else device_map

    def path_or_name(self, base: Path) -> Path | str:
        """Return the model's folder if the name is one, or else its name on the hub.

        Args:
            base: Folder of the spec file, from which relative paths start.
        """
        folder = base / expanded(self.name)
        if self.name.startswith((".", "/", "~")) or (folder / "config.json").is_file():
            return Path(os.path.normpath(folder))
        return self.name


class DatasetSpec(Strict):
    """A dataset of the Hugging Face hub, or a folder that `datasets` has saved."""

    path: Text = Field(description="Name on the hub, or a folder.")
    name: Text | None = Field(None, description="Configuration.")
    split: Text = Field("train", description="Split.")
    revision: Text | None = Field(None, description="Branch, tag or commit.")


class DataSpec(Strict):
    """The token set: exactly one source, and how it is cut into windows and masked."""

    text: Texts | None = Field(None, description="Text files (globs); each is a document.")
    jsonl: Texts | None = Field(None, description="JSON lines (globs); each line is a document.")
    tokens: Texts | None = Field(
        None, description="Token ids: .npy or .safetensors matrices, or .jsonl lists (globs)."
    )
    dataset: Annotated[DatasetSpec, shorthand("path")] | None = Field(
        None, description="Hugging Face dataset, streamed."
    )
    modules: Texts | None = Field(
        None,
        description="Top-level Python modules, whose source code is the text; it differs from one "
        "version of Python to another.",
    )
    field: Text | None = Field(
        None,
        description="Field of a JSON line or dataset row that holds the text or the token ids "
        "(default: text; input_ids for tokens).",
    )
    source_field: Text | None = Field(
        None,
        description="Field of a JSON line or dataset row that holds its source, for slices by "
        "source; meta.pile_set_name is pile_set_name in meta (default: the source is the file, or "
        "the dataset).",
    )
    # BOS, a scored token, and its next
    context: int = Field(128, ge=3, description="Tokens per window, BOS included.")
    sequences: int = Field(256, ge=1, description="Windows that are measured.")
    prepend_bos: bool = Field(
        description="Whether each window starts with BOS; as the SAE was trained."
    )
    special_tokens: SpecialTokens = Field(
        "exclude",
        description="Tokens that are neither patched nor scored: exclude (BOS, EOS and PAD), "
        "include (none), or a list of token ids.",
    )
    seed: int = Field(0, ge=0, description="Seed of the random choice of windows.")
    expect_clean_ce: Interval | None = Field(
        None,
        description="Lowest and highest plausible cross-entropy of the unpatched model, in nats; "
        "outside of it the setup is wrong.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        sources = [name for name in SOURCES if getattr(self, name) is not None]
        if len(sources) != 1:
            listed = " and ".join(sources) if sources else "no source"
            raise value_error(f"has {listed}, expected exactly one of {', '.join(SOURCES)}")
        for name in ("field", "source_field"):
            if getattr(self, name) is not None and sources[0] in ("text", "modules"):
                raise value_error(
                    f"has a {name}, but {sources[0]} has no fields; {name} is for jsonl, tokens "
                    "and dataset"
                )
        return self

    @property
    def column(self) -> str:
        """Name of the field that holds the text or the token ids."""
        return self.field or ("input_ids" if self.tokens else "text")


class MembersSpec(Strict):
    """Members of a release that are expected to be new, or gone, since the baseline."""

    added: tuple[Text, ...] = Field(
        (), strict=False, description="Members that the baseline does not have yet."
    )
    removed: tuple[Text, ...] = Field(
        (), strict=False, description="Members of the baseline that this release has no longer."
    )


class DocumentModel(Strict):
    """One spec: a model, a hook point, a token set, and thresholds on SAEs there."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+( [A-Za-z0-9_.+-]+)*$")] | None = Field(
        None,
        description="Name of the document in node ids (default: the hook point); unique in its "
        "file.",
    )
    model: Annotated[ModelSpec, shorthand("name")] = Field(
        description="Language model: its name, or a mapping."
    )
    hook: Text = Field(description="Hook point, such as blocks.8.hook_resid_pre.")
    hook_out: Text | None = Field(
        None, description="Hook point that a transcoder replaces, where it is not `hook`."
    )
    data: DataSpec = Field(description="Token set.")
    checkpoint: Text | None = Field(
        None,
        description="Checkpoint to gate when a run names none: a path relative to the spec file, "
        "or a reference (hf://…, sae_lens://…).",
    )
    sae: SaeOptions = Field(
        default_factory=SaeOptions,
        description="Properties of the SAE that its checkpoint does not store.",
    )
    fast: bool = Field(
        default=False,
        description="Whether a run may stop early, as soon as each verdict equals the one on all "
        "sequences with a probability of at least 1 − alpha.",
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        None,
        description="Largest chance that an early verdict differs from the one on all sequences, "
        "where a run is fast (default: 0.001).",
    )
    baseline: Text | None = Field(
        None,
        description="Recorded version that max_increase and max_decrease compare with, where the "
        "run names none.",
    )
    members: MembersSpec = Field(
        default_factory=MembersSpec,
        description="Members of the release that are new, or gone, since the baseline.",
    )
    strict_env: bool = Field(
        default=False,
        description="Whether a baseline from another device or other versions of libraries is an "
        "error; otherwise it is a warning.",
    )
    thresholds: Thresholds = Field(
        description="Metric → bounds. Below a metric, p50, p99 and such bound quantiles over "
        "tokens, and worst_sequence bounds the worst sequence."
    )
    pareto: ParetoModel | None = Field(
        None,
        alias=PARETO,
        description="Pareto threshold on two metrics: no record of the spec may be at least as "
        "good in both and better in one.",
    )
    # strict=False: YAML has lists, and strict mode takes a tuple only.
    slices: tuple[SliceModel, ...] = Field(
        (), strict=False, description="Thresholds on some of the tokens.", validate_default=False
    )

    @property
    def blocks(self) -> Iterator[tuple[KeyPath, Mapping[str, BoundsModel], Slice | None]]:
        """Each block of thresholds: path of the key that it is in, its bounds, its tokens."""
        yield (), self.thresholds, None
        for index, part in enumerate(self.slices):
            yield ("slices", index), part.thresholds, part.slice

    @field_validator("pareto", mode="before")
    @classmethod
    def _pareto_not_empty(cls, value: Any) -> Any:
        return require_value(value)

    @model_validator(mode="before")
    @classmethod
    def _move_pareto_to_its_field(cls, value: Any) -> Any:
        """Take ``pareto`` out of ``thresholds``, whose other entries are all `BoundsModel`."""
        if not isinstance(value, dict):
            return value
        if PARETO in value:
            raise value_error(f"has an unknown key {PARETO!r}: `pareto` stands below `thresholds`")
        thresholds = value.get("thresholds")
        if not isinstance(thresholds, dict) or "pareto" not in thresholds:
            return value
        bounds = {name: entry for name, entry in thresholds.items() if name != "pareto"}
        if not bounds:
            # An SAE without active latents has the best L0 of all, so that no record dominates it.
            raise value_error(
                "has `thresholds` with pareto alone, which an SAE without active latents passes; "
                "bound a metric too"
            )
        return {**value, "thresholds": bounds, PARETO: thresholds["pareto"]}
