"""The shape of a spec document; `json_schema` and the validation are both made from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.files import expanded
from sae_guard.specs.thresholds import PARETO, ParetoModel, SliceModel, Strict, Thresholds
from sae_guard.specs.values import (
    DeviceMap,
    Interval,
    SpecialTokens,
    Text,
    Texts,
    given,
    shorthand,
    wrong,
)

SOURCES = ("text", "jsonl", "tokens", "dataset", "modules")


class ModelSpec(Strict):
    """Which language model, and in which space its activations are."""

    name: Text = Field(
        description="Hugging Face name, or a folder relative to the spec file, with ./ or ../."
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="What the model computes in; metrics are float32 or better."
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
        found = self.device_map
        return dict(found) if isinstance(found, tuple) else found

    def path_or_name(self, base: Path) -> Path | str:
        """The folder, if the name is one (relative to ``base``, the spec's folder)."""
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
    """Which tokens: exactly one source, and the policy that cuts and masks it."""

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
        description="Top-level Python modules, whose source is the text: another version of "
        "Python, other tokens.",
    )
    field: Text | None = Field(
        None, description="Of a JSON line or dataset row (default: text; input_ids for tokens)."
    )
    source_field: Text | None = Field(
        None,
        description="Of a JSON line or dataset row, for slices by source; meta.pile_set_name is "
        "pile_set_name in meta (default: the source is the file, or the dataset).",
    )
    context: int = Field(128, ge=3, description="Tokens per window, BOS included.")
    sequences: int = Field(256, ge=1, description="Windows that are measured.")
    prepend_bos: bool = Field(
        description="Whether each window starts with BOS; as the SAE was trained."
    )
    special_tokens: SpecialTokens = Field(
        "exclude",
        description="Whether BOS, EOS and PAD are left out of patching and scoring, or which ids.",
    )
    seed: int = Field(0, ge=0, description="Of the choice of windows.")
    expect_clean_ce: Interval | None = Field(
        None, description="Lowest and highest clean cross-entropy (nats) of a sane setup."
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(given) if given else "no source"
            raise wrong(f"has {what}, expected exactly one of {', '.join(SOURCES)}")
        for name in ("field", "source_field"):
            if getattr(self, name) is not None and given[0] in ("text", "modules"):
                raise wrong(
                    f"has a {name}, but {given[0]} has none; it is for jsonl, tokens, dataset"
                )
        return self

    @property
    def column(self) -> str:
        """The field to read."""
        return self.field or ("input_ids" if self.tokens else "text")


class DocumentModel(Strict):
    """One spec: a model, a hook point, a token set, and thresholds on SAEs there."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+( [A-Za-z0-9_.+-]+)*$")] | None = Field(
        None, description="In node ids (default: the hook point); unique in its file."
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
        description="Gated when a run names no checkpoint: a path relative to the spec file, or "
        "a reference (hf://…, sae_lens://…).",
    )
    sae: SaeOptions = Field(
        default_factory=SaeOptions, description="What checkpoints do not say of themselves."
    )
    fast: bool = Field(
        default=False,
        description="Whether a run may stop as soon as every verdict is that of all sequences but "
        "for a chance of alpha.",
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        None, description="That chance, where a run is fast (default: 0.001)."
    )
    baseline: Text | None = Field(
        None,
        description="Recorded version that max_increase and max_decrease compare with, where the "
        "run names none.",
    )
    strict_env: bool = Field(
        default=False,
        description="Whether a baseline of another device or of other versions of libraries is an "
        "error; otherwise it is a warning.",
    )
    thresholds: Thresholds = Field(
        description="Metric → bounds; within them p50, p99 and such (of single tokens) or "
        "worst_sequence → bounds."
    )
    pareto: ParetoModel | None = Field(
        None,
        alias=PARETO,
        description="Among the metrics: no record of the spec may be at least as good in both of "
        "two metrics and better in one.",
    )
    slices: tuple[SliceModel, ...] = Field(
        (), strict=False, description="Thresholds on some of the tokens.", validate_default=False
    )

    @field_validator("pareto", mode="before")
    @classmethod
    def _axes_given(cls, value: Any) -> Any:
        return given(value)

    @model_validator(mode="before")
    @classmethod
    def _pareto_apart(cls, value: Any) -> Any:
        """It stands among the thresholds, and has no bounds."""
        if not isinstance(value, dict):
            return value
        if PARETO in value:
            raise wrong(f"has an unknown key {PARETO!r}: `pareto` stands below `thresholds`")
        thresholds = value.get("thresholds")
        if not isinstance(thresholds, dict) or "pareto" not in thresholds:
            return value
        rest = {name: given for name, given in thresholds.items() if name != "pareto"}
        if not rest:
            raise wrong(
                "has `thresholds` with pareto alone, and an SAE without latents is dominated by "
                "none: bound a metric too"
            )
        return {**value, "thresholds": rest, PARETO: thresholds["pareto"]}
