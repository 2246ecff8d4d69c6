"""What a checkpoint may be unable to say of itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Architecture = Literal["standard", "tanh_relu", "topk", "abstopk", "groupmax", "jumprelu", "gated"]
Normalize = Literal["none", "constant_norm_rescale", "layer_norm"]


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
