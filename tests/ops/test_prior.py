"""A score against its prior is the formula, in float32, whatever came in."""

import pytest
import torch

from foveate.errors import SignalError
from foveate.ops.prior import against_prior

from .scenes import weights


def test_it_is_the_pointwise_divergence():
    p, q = weights(1, 2, 20) + 1e-3, weights(7, 2, 20) + 1e-3
    found = against_prior(3 * p, 5 * q, eps=0.0)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    torch.testing.assert_close(found, p * (p / q).log())
    torch.testing.assert_close(found.sum(1), torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1))
    torch.testing.assert_close(against_prior(p, q, eps=1e-6, weighted=False), p / (q + 1e-6))


def test_half_precision_does_not_make_ties():
    p = torch.linspace(1.0, 1.01, 50)[None].half()
    assert against_prior(p, torch.ones(1, 50).half()).dtype == torch.float32


def test_what_the_prior_explains_is_worth_nothing_and_nothing_stays_finite():
    p = weights(3, 1, 9)
    assert against_prior(p, p).abs().max() < 1e-6
    assert against_prior(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [[0.0] * 4]
    with pytest.raises(SignalError, match="NaN"):
        against_prior(torch.full((1, 3), torch.nan), torch.ones(1, 3))
