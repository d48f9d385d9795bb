"""denoising: the steps from noise to a picture: DDIM without noise of its own (Song et al. 2020, equation 12).

It takes any model that was trained to tell the noise, or the velocity, of Stable Diffusion's schedule; which scheduler
a folder names does not matter to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

PREDICTS: Final = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Schedule:
    """How much of the picture is left at each of the steps that a model was trained on."""

    kept: Any
    """The product of the alphas: an array, one number for each training step."""
    predicts: str
    offset: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Schedule:
        """By scheduler_config.json. Raises ValueError for a schedule that is not known here."""
        steps = int(config.get("num_train_timesteps", 1000))
        first, last = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
        kind = config.get("beta_schedule", "scaled_linear")
        predicts = config.get("prediction_type", "epsilon")
        if predicts not in PREDICTS:
            raise ValueError(f"it predicts {predicts}; what is known here is {' and '.join(PREDICTS)}")
        if kind == "scaled_linear":
            betas = np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2
        elif kind == "linear":
            betas = np.linspace(first, last, steps, dtype=np.float64)
        else:
            raise ValueError(f"its beta_schedule is {kind}; what is known here is scaled_linear and linear")
        return cls(np.cumprod(1 - betas), str(predicts), int(config.get("steps_offset", 0)))

    def moments(self, steps: int) -> list[int]:
        """The training steps that `steps` steps visit, from the noisiest on."""
        every = max(1, len(self.kept) // steps)
        found = [min(len(self.kept) - 1, number * every + self.offset) for number in range(min(steps, len(self.kept)))]
        return found[::-1]

    def step(self, sample: Any, predicted: Any, moment: int, following: int | None) -> Any:
        """The sample one step on; `following` is the moment after this one, None where it was the last."""
        kept = float(self.kept[moment])
        then = float(self.kept[following]) if following is not None else float(self.kept[0])
        if self.predicts == "epsilon":
            noise = predicted
            picture = (sample - (1 - kept) ** 0.5 * noise) / kept**0.5
        else:
            picture = kept**0.5 * sample - (1 - kept) ** 0.5 * predicted
            noise = kept**0.5 * predicted + (1 - kept) ** 0.5 * sample
        return then**0.5 * picture + (1 - then) ** 0.5 * noise
