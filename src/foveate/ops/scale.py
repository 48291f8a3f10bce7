"""Min-max of each image's scores, safe where they are all equal."""

from torch import Tensor


def minmax(x_BN: Tensor, above: float = 0.0, below: float = 0.0) -> Tensor:
    """(x - min + above) / (max - min + below) of each row, in float32; 1 everywhere in a row of equal values.

    Papers guard the division with a small number above the line, below it, or both: each order of picks depends on it.
    """
    x_BN = x_BN.float()
    low_B1 = x_BN.amin(1, keepdim=True)
    span_B1 = x_BN.amax(1, keepdim=True) - low_B1
    flat_B1 = span_B1 <= 0
    return ((x_BN - low_B1 + above) / (span_B1 + below).masked_fill(flat_B1, 1.0)).masked_fill(flat_B1, 1.0)
