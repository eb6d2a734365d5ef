"""Eqs. 3-9 against quadrature, SciPy, and their printed forms in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import Tensor

from sanflow.model import likelihood as lk
from sanflow.model.config import SanflowConfig

PRIOR = lk.Prior.of(SanflowConfig())


def logs(a: float, b: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(a, dtype=torch.float64).log(), torch.tensor(b, dtype=torch.float64).log()


def expect(a: float, b: float, function: object) -> float:
    """E[function(s)] under IG(a, b) by quadrature over log s."""
    density = stats.invgamma(a, scale=b)
    centre, width = math.log(b / a), 12 / math.sqrt(a) + 30 / a
    value, _ = integrate.quad(
        lambda u: function(math.exp(u)) * density.pdf(math.exp(u)) * math.exp(u),
        centre - width,
        centre + width,
        epsabs=1e-12,
        epsrel=1e-12,
        limit=400,
    )
    return float(value)


def test_prior_has_the_published_numbers_and_mode() -> None:
    assert (PRIOR.alpha, PRIOR.beta) == (59.5, pytest.approx(6.05))
    assert PRIOR.beta / (PRIOR.alpha + 1) == pytest.approx(0.1)


def test_kl_equals_quadrature_and_the_reference_value() -> None:
    ours = lk.kl_divergence(*logs(20, 3), PRIOR).item()
    p, q = stats.invgamma(20, scale=3), stats.invgamma(PRIOR.alpha, scale=PRIOR.beta)
    assert ours == pytest.approx(expect(20, 3, lambda s: p.logpdf(s) - q.logpdf(s)), abs=1e-9)
    assert ours == pytest.approx(4.4146569625642, abs=1e-12)


@given(a=st.floats(0.05, 500), b=st.floats(0.01, 100))
def test_kl_is_positive_and_zero_only_at_the_prior(a: float, b: float) -> None:
    assert lk.kl_divergence(*logs(a, b), PRIOR).item() > -1e-9
    at_prior = lk.kl_divergence(*logs(PRIOR.alpha, PRIOR.beta), PRIOR).item()
    assert at_prior == pytest.approx(0, abs=1e-12)


def test_detached_kl_has_the_same_value_and_a_gradient_in_a_alone() -> None:
    log_a, log_b = (t.requires_grad_() for t in logs(20, 3))
    detached = lk.kl_divergence_detached(log_a, log_b, PRIOR)
    assert detached.item() == lk.kl_divergence(log_a, log_b, PRIOR).item()
    only_a, none = torch.autograd.grad(detached, (log_a, log_b), allow_unused=True)
    assert none is None
    # d/da of (a - a0) psi(a) - lgamma(a) - a, times a for log a
    expected = 20 * ((20 - PRIOR.alpha) * special.polygamma(1, 20) - 1)
    assert only_a.item() == pytest.approx(expected, rel=1e-9)


def test_digamma_series_is_exact_to_its_bound() -> None:
    a = np.logspace(-3, 4, 20001)
    exact = np.log(a) - special.digamma(a)
    series = lk.digamma_gap(torch.from_numpy(np.log(a))).numpy()
    # A double near 1/a = 1000 is itself only good to 1e-13, far below the bound.
    assert np.abs(series - exact).max() < 2.5e-9
    single = lk.digamma_gap(torch.from_numpy(np.log(a[a >= 1])).float()).numpy()
    assert np.abs(single - exact[a >= 1]).max() < 1e-6


@pytest.mark.parametrize(("a", "b"), [(59.5, 6.05), (3.0, 0.2), (1.2, 40.0)])
def test_expectation_rule_equals_quadrature(a: float, b: float) -> None:
    spread = lk.Spread.expectation(*logs(a, b))
    assert spread.log_variance.item() == pytest.approx(expect(a, b, math.log), abs=1e-7)
    assert spread.precision.item() == pytest.approx(expect(a, b, lambda s: 1 / s), rel=1e-7)


@given(a=st.floats(0.1, 1e3), b=st.floats(1e-3, 1e3))
def test_mode_rule_is_the_mode_below_the_maximum(a: float, b: float) -> None:
    spread = lk.Spread.mode(*logs(a, b), 5.0)
    assert spread.log_variance.exp().item() == pytest.approx(min(b / (a + 1), 5.0), rel=1e-12)
    assert spread.precision.item() == pytest.approx(1 / min(b / (a + 1), 5.0), rel=1e-12)


def test_log_density_is_the_gaussians_divided_by_its_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, generator=generator, dtype=torch.float64)
    spread = lk.Spread.constant(0.3, z)
    ours = lk.log_density((z * z).mean(), spread).item()
    exact = stats.norm(0, math.sqrt(0.3)).logpdf(z.numpy()).sum()
    assert 50 * ours == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("margin", [0.5, 1.0, 1.5])
def test_logit_is_the_difference_of_the_two_densities(margin: float) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    spread = lk.Spread.expectation(*logs(20, 3))
    normal = lk.log_density((z**2).mean(dim=1), spread)
    abnormal = lk.log_density(((z - margin) ** 2).mean(dim=1), spread)
    logit = lk.normal_logit(z.mean(dim=1), spread.precision, margin)
    torch.testing.assert_close(logit, normal - abnormal, rtol=1e-12, atol=1e-12)


def test_logit_survives_where_the_printed_ratio_does_not() -> None:
    """Eq. 8 literally: exp(log p_n) / (exp(log p_n) + exp(log p_a)) is 0 / 0 at C = 512."""
    z = 3 * torch.randn(1000, 512, generator=torch.Generator().manual_seed(2))
    spread = lk.Spread.constant(0.1, z)
    log_p = [512 * lk.log_density(((z - mu) ** 2).mean(dim=1), spread) for mu in (0, 1)]
    printed = log_p[0].exp() / (log_p[0].exp() + log_p[1].exp())
    assert printed.isnan().any()
    assert lk.normal_logit(z.mean(dim=1), spread.precision, 1.0).isfinite().all()


def test_clip_keeps_every_later_value_finite() -> None:
    extremes = lk.clip(torch.tensor([-1e9, -20.0, 0.0, 20.0, 1e9]))
    log_a, log_b = torch.meshgrid(extremes, extremes, indexing="ij")
    for spread in (lk.Spread.mode(log_a, log_b, 5.0), lk.Spread.expectation(log_a, log_b)):
        assert lk.log_density(torch.tensor(1.0), spread).isfinite().all()
    assert lk.kl_divergence(log_a, log_b, PRIOR).isfinite().all()
