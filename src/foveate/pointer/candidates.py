"""What a learned selector sees of an image: its tokens as the LLM receives them, and perhaps the question."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import SignalError
from foveate.ops.doubts import all_finite
from foveate.selection import TokenView


@dataclass(frozen=True)
class Candidates:
    """B images of up to N tokens, float32; shorter ones are padded.

    real_BN and said_BT are False at padding; None where nothing is padded.
    """

    tokens_BND: Tensor
    real_BN: Tensor | None = None
    text_BTD: Tensor | None = None
    said_BT: Tensor | None = None

    @classmethod
    def of(cls, view: TokenView, features: int, text: bool) -> "Candidates":
        """From what a running model shows.

        Raises:
            SignalError: the tokens are of another width than the selector was trained on, or hold NaN or infinity; or
                there is no question to read.
        """
        tokens_BND = view.need("hidden_BND").float()
        if tokens_BND.shape[-1] != features:
            raise SignalError(
                f"this selector was trained on tokens of width {features}, but this model's are {tokens_BND.shape[-1]} "
                "wide; train one for this model (foveate train sts) and name its folder: sts(keep, path=...)"
            )
        if not all_finite(tokens_BND):
            raise SignalError("tokens hold NaN or infinity, so none can be pointed at; check for overflow")
        text_BTD = view.need("text_BTD").float() if text else None
        if text_BTD is not None and not text_BTD.shape[1]:
            raise SignalError("this selector reads the question, and the prompt holds none; use one that reads none")
        return cls(tokens_BND, text_BTD=text_BTD)

    @property
    def counts_B(self) -> Tensor:
        """Tokens of each image."""
        b, n = self.tokens_BND.shape[:2]
        if self.real_BN is None:
            return torch.full((b,), n, device=self.tokens_BND.device)
        return self.real_BN.sum(1)

    @property
    def seen_BM(self) -> Tensor | None:
        """Which of the tokens, and of the question's words behind them, are no padding; None where all are."""
        if self.text_BTD is None or (self.real_BN is None and self.said_BT is None):
            return self.real_BN
        whole = [x.new_ones(x.shape[:2], dtype=torch.bool) for x in (self.tokens_BND, self.text_BTD)]
        return torch.cat([w if x is None else x for x, w in zip((self.real_BN, self.said_BT), whole, strict=True)], 1)
