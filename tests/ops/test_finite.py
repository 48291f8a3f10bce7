"""Nothing broken passes, and nothing large is taken for broken."""

import pytest
import torch

from foveate.errors import SignalError
from foveate.ops.cosine import check_finite
from foveate.ops.doubts import all_finite

INF = float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [[INF], [-INF], [float("nan")], [INF, -INF]])
def test_what_is_broken_is_found(dtype, bad):
    x = torch.zeros(2, 3, 4, dtype=dtype)
    x.view(-1)[5 : 5 + len(bad)] = torch.tensor(bad, dtype=dtype)
    assert not all_finite(torch.zeros(3), x)
    with pytest.raises(SignalError, match="scores hold NaN or infinity"):
        check_finite(x, "scores")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_that_overflow_are_no_fault_of_the_values(dtype):
    large = torch.full((4, 1000), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(large, -large) and all_finite(torch.empty(0, 3, dtype=dtype))
    check_finite(large)
