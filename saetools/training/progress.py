"""One bar for a whole training: error, penalty, and how far the worst unit is from its rho."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saetools.data.checks import needs

Miss = Callable[[nn.Module], Tensor]


class Bar:
    """A progress bar over so many steps, of one phase or several (needs tqdm).

    `miss` is asked for the units' distances from rho when the bar is drawn, and not at each step.
    """

    def __init__(self, steps: int, miss: Miss | None = None) -> None:
        self._steps, self._miss, self._bar = steps, miss, None

    @torch.no_grad()
    def advance(
        self,
        steps: int,
        model: nn.Module,
        error: Tensor | None = None,
        penalty: Tensor | None = None,
    ) -> None:
        """Count steps that are done, the last of them with this error and penalty, () or (N,)."""
        if self._bar is None:
            with needs("tqdm", extra="notebooks"):
                from tqdm.auto import tqdm

            self._bar = tqdm(desc="train", initial=steps, total=self._steps, unit="step")
            return
        drawn, done = self._bar.update(steps), self._bar.n >= self._steps
        if (drawn or done) and error is not None:
            text = f"error {error.mean().item():.3g}"
            if penalty is not None and penalty.any():  # 0 where there is none
                text += f", penalty {penalty.mean().item():.3g}"
            if self._miss is not None:
                text += f", worst unit {self._miss(model).abs().max().item():.3f} from rho"
            self._bar.set_postfix_str(text)
        if done:
            self._bar.close()
