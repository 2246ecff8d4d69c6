"""What a checkpoint may be unable to say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sae_guard.errors import Contract, LoadError, Option, SetupError

Architecture = Literal["standard", "tanh_relu", "topk", "abstopk", "groupmax", "jumprelu", "gated"]
Normalize = Literal["none", "constant_norm_rescale", "layer_norm"]
ALLOWED = {
    "architecture": ", ".join(get_args(Architecture)),
    "k": "a whole number from 1 on",
    "normalize": ", ".join(get_args(Normalize)),
    "scale": "a number above 0, folded, stored",
}


class SaeOptions(BaseModel):
    """Facts about the SAE that its file does not hold; what the file does say stands."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    architecture: Architecture | None = Field(
        None, description="Activation family; standard is ReLU."
    )
    k: int | None = Field(None, ge=1, description="Active latents per token of a TopK SAE.")
    pre_bias: bool | None = Field(
        None, description="Whether b_dec is taken off the input before the encoder."
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
        description="What the input is multiplied by, where the file names a normalisation of "
        "the training and not its factor: the factor; folded, if the weights hold it already; "
        "stored, if the file holds it and it is still to be applied.",
    )


NOTHING_SAID = SaeOptions()


def parse(values: Mapping[str, Any]) -> SaeOptions:
    """Check options that do not come from a spec.

    Raises:
        SetupError: One has a value that is not allowed; the error carries its key.
    """
    try:
        return SaeOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        raise SetupError(
            f"{key} {values[key]!r}; allowed: {ALLOWED.get(key, first['msg'])}",
            options=(cast("Option", key),) if key in SaeOptions.model_fields else (),
        ) from None


def ambiguous(subject: str, contract: Contract, *choices: tuple[Option, str]) -> LoadError:
    """Make the error for a checkpoint of which options have to decide.

    Args:
        subject: Which file it is, and what is ambiguous.
        contract: The part of the load contract that breaks.
        choices: An option and what it may be; several for one option, each with what it means.
    """
    lines = "".join(f"\n  sae.{option}: {values}" for option, values in choices)
    options = tuple(dict.fromkeys(option for option, _ in choices))
    return LoadError(f"{subject}; decide in the spec:{lines}", contract, options=options)


def merged(*sources: tuple[str, SaeOptions]) -> SaeOptions:
    """What all sources say together; each comes with what to call it.

    Raises:
        SetupError: Two of them contradict each other.
    """
    values: dict[str, tuple[str, object]] = {}
    for source, options in sources:
        for key, value in options.model_dump(exclude_none=True).items():
            first, before = values.setdefault(key, (source, value))
            if before != value:
                raise SetupError(
                    f"{key} is {before!r} by {first} and {value!r} by {source}",
                    options=(cast("Option", key),),
                )
    return SaeOptions.model_validate({key: value for key, (_, value) in values.items()})
