"""What one call of the base model knows: what its pre-hook saw, and what was encoded since."""

from collections.abc import Callable

from torch import Tensor

from foveate.geometry.base import Kind
from foveate.hf.clock import Seconds
from foveate.hf.cutting import Cutting
from foveate.hf.layers import Layers
from foveate.hf.prompt import Encoded, Image
from foveate.hf.step import Step
from foveate.ops.doubts import Doubts


class Run:
    """See the module's docstring. Lives in a thread-local of the attachment, as long as the call."""

    def __init__(self, alone: bool = False, doubts: Doubts | None = None) -> None:
        self.alone = alone
        self.ids: Tensor | None = None
        """In host memory; None where one token follows a prompt."""
        self.pictures = False
        self.mask: Tensor | None = None
        self.late: Callable[[Tensor], Step] | None = None
        self.encoded: dict[Kind, list[Encoded]] = {}
        self.seconds: list[Seconds] = []
        self.step: Step | None = None
        self.cutting: Cutting | None = None
        self.layers: Layers | None = None
        self.dropped: Callable[[], Tensor] | None = None
        """Which places of the input are gone, [B, L], once somebody asks."""
        self.real: Tensor | None = None
        """`mask` in host memory."""
        self.told: list[tuple[Tensor, Tensor]] = []
        """What else was read into host memory with the ids: sizes of pictures, each with its copy."""
        self.doubts = doubts or Doubts()
        self.guesses = 0
        self.given: list[Image] = []
        """Images of a prompt that came as embeddings."""
