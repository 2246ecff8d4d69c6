"""Options for facts that a checkpoint may not state about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sae_guard.errors import Contract, LoadError, Option, SetupError, allowed

Architecture = Literal["standard", "tanh_relu", "topk", "abstopk", "groupmax", "jumprelu", "gated"]
Normalize = Literal["none", "constant_norm_rescale", "layer_norm"]
ALLOWED = {
    "architecture": ", ".join(get_args(Architecture)),
    "k": "a whole number from 1 on",
    "normalize": ", ".join(get_args(Normalize)),
    "scale": "a number above 0, folded, stored",
}


class SaeOptions(BaseModel):
    """Facts about an SAE that its file does not state; they must not contradict the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    architecture: Architecture | None = Field(
        None, description="Activation family; standard is ReLU."
    )
    k: int | None = Field(None, ge=1, description="Active latents per token of a TopK SAE.")
    pre_bias: bool | None = Field(
        None, description="True if b_dec is subtracted from the input before the encoder."
    )
    normalize: Normalize | None = Field(
        None,
        description="Normalisation of the input, undone after the decoder: to length sqrt(d_in), "
        "or to mean 0 and standard deviation 1 over d_in.",
    )
    scale: (
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["folded", "stored"] | None
    ) = Field(
        None,
        description="Factor of the input, if the file names a normalisation of the training but "
        "does not decide its factor: a number; folded, if the weights include it already; stored, "
        "if the file has it and the weights do not include it.",
    )


NOTHING_SAID = SaeOptions()


def parse(values: Mapping[str, Any]) -> SaeOptions:
    """Check options that do not come from a spec.

    Raises:
        SetupError: A value is not allowed; the error carries the key of the option.
    """
    try:
        return SaeOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        if key not in SaeOptions.model_fields:
            raise SetupError(
                f"{key} {values[key]!r}; " + allowed(key, SaeOptions.model_fields)
            ) from None
        raise SetupError(
            f"{key} {values[key]!r}; allowed: {ALLOWED.get(key, first['msg'])}",
            options=(cast("Option", key),),
        ) from None


def ambiguous(subject: str, contract: Contract, *choices: tuple[Option, str]) -> LoadError:
    """Return the error for an ambiguous checkpoint that needs options.

    Args:
        subject: The file, and what is ambiguous about it.
        contract: The part of the load contract that breaks.
        choices: Option and an allowed value with its meaning; one option may have several pairs.
    """
    lines = "".join(f"\n  sae.{option}: {values}" for option, values in choices)
    options = tuple(dict.fromkeys(option for option, _ in choices))
    return LoadError(f"{subject}; decide in the spec:{lines}", contract, options=options)


def merged(*sources: tuple[str, SaeOptions]) -> SaeOptions:
    """Merge options of several sources.

    Args:
        sources: Name of a source, for messages, and its options.

    Raises:
        SetupError: Two sources contradict each other.
    """
    values: dict[str, tuple[str, object]] = {}
    for source, options in sources:
        for key, value in options.model_dump(exclude_none=True).items():
            first, before = values.setdefault(key, (source, value))
            if before != value:
                raise SetupError(
                    f"{key} is {before!r} by {first} and {value!r} by {source}; remove one of them",
                    options=(cast("Option", key),),
                )
    return SaeOptions.model_validate({key: value for key, (_, value) in values.items()})
