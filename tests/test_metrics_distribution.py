"""Distribution metrics: the numbers of torch-fidelity, clean-fid and prdc, known values, and honest intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from genloom.metrics import distribution as D

GOLDEN = Path(__file__).parent / "golden"
IO = load_file(GOLDEN / "metrics_features.safetensors")
EXPECTED = json.loads((GOLDEN / "metrics_features.json").read_text())["expected"]


def features(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize(("case", "real", "fake"), [
    ("real_vs_fake", "real", "fake"), ("fewer_than_dim", "real_fewer_than_dim", "fake_fewer_than_dim"),
])  # fmt: skip
def test_frechet_agrees_with_references(case: str, real: str, fake: str) -> None:
    for reference in ("torch_fidelity", "clean_fid"):
        assert float(D.frechet_distance(IO[real], IO[fake])) == pytest.approx(
            EXPECTED["frechet"][case][reference], rel=1e-6
        )


def test_frechet_of_given_moments() -> None:
    stats = [IO[f"stats.{k}"] for k in ("mu1", "sigma1", "mu2", "sigma2")]
    expected = EXPECTED["frechet"]["real_vs_fake"]["torch_fidelity"]
    assert D.frechet_from_moments(*stats) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_shifted_and_scaled_gaussians_is_known() -> None:
    mean, cov = torch.zeros(3).double(), torch.eye(3).double()
    assert D.frechet_from_moments(mean, cov, mean + 2, cov) == pytest.approx(12)
    assert D.frechet_from_moments(mean, cov, mean, 9 * cov) == pytest.approx(3 * (1 - 3) ** 2)


def test_identical_sets_are_at_distance_zero() -> None:
    for x in (IO["real"], IO["real_fewer_than_dim"], torch.ones(9, 4)):
        assert abs(float(D.frechet_distance(x, x))) < 1e-6


def test_fewer_samples_than_dimensions_are_compared_in_their_own_span() -> None:
    x, y = features(30, 200), features(40, 200, seed=1, shift=0.3)
    quick = D.frechet_distance(x, y)
    assert float(quick) == pytest.approx(D.frechet_from_moments(*D.moments(x), *D.moments(y)), rel=1e-9)
    whole = D.frechet_distance(features(30, 50), features(40, 50, seed=1))
    padded = [torch.cat([features(n, 50, seed=s), torch.zeros(n, 80)], 1) for n, s in ((30, 0), (40, 1))]
    for a, b in zip(whole.contributions, D.frechet_distance(*padded).contributions, strict=True):
        torch.testing.assert_close(a, b)


def test_kernel_distance_agrees_with_torch_fidelity() -> None:
    expected = EXPECTED["kid"]["torch_fidelity"]
    ours = D.kernel_distance(IO["real"], IO["fake"], subsets=40, subset_size=50)
    assert float(ours) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert f"{expected['kernel_inception_distance_std']:.3g}" in ours.note
    single = float(D.mmd2(IO["real"][:260], IO["fake"][:260]))
    assert single == pytest.approx(EXPECTED["kid"]["single_full_subset_unbiased_mmd2"], rel=1e-6)


@pytest.mark.parametrize("data", ["manifold", "grid"])
@pytest.mark.parametrize("k", [3, 5])
def test_neighbourhoods_agree_with_prdc_and_torch_fidelity(data: str, k: int) -> None:
    real, fake = IO[f"real_{data}"], IO[f"fake_{data}"]
    expected = EXPECTED["prdc"][f"{data}{'_with_ties' * (data == 'grid')}_k{k}"]
    strict = D.neighbourhoods(real, fake, k)
    for name, value in expected["prdc_package"].items():
        assert float(getattr(strict, name)) == pytest.approx(value, abs=1e-12)
    closed = D.neighbourhoods(real, fake, k, inclusive=True)[:2]
    reference = [expected["torch_fidelity"][name] for name in ("precision", "recall")]
    assert [float(v) for v in closed] == pytest.approx(reference, abs=1e-6)


@pytest.mark.parametrize("splits", [1, 5, 7, 10])
@pytest.mark.parametrize("shuffle", [False, True])
def test_inception_score_agrees_with_torch_fidelity(splits: int, shuffle: bool) -> None:
    expected = EXPECTED["inception_score"][f"splits{splits}_shuffle{shuffle}"]
    for probs in (IO["probs"], IO["logits"].double().softmax(1)):
        score = D.inception_score(probs, splits, shuffle=shuffle)
        assert float(score) == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_inception_score_counts_classes() -> None:
    assert float(D.inception_score(torch.eye(10).repeat(5, 1))) == pytest.approx(10)
    assert float(D.inception_score(torch.full((50, 10), 0.1))) == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(12, 60))
def test_order_of_samples_does_not_matter(seed: int, d: int, n: int) -> None:
    x, y = features(n, d, seed), features(n + 3, d, seed + 1, shift=0.3)
    p = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for metric in (D.frechet_distance, D.mmd2, lambda a, b: D.neighbourhoods(a, b, 3).coverage):
        assert float(metric(x, y)) == pytest.approx(float(metric(x[p], y)), rel=1e-6, abs=1e-9)


def test_nearest_is_that_of_the_full_distance_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(D, "BLOCK", 90 * 16)  # 16 rows at a time
    x, y = features(70, 5), features(90, 5, seed=1)
    distances, rows = D.nearest(x, y, 4)
    expected = torch.cdist(x.double(), y.double()).topk(4, largest=False)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(distances, expected.values)
    torch.testing.assert_close(D.nearest(x, y)[0], expected.values[:, :1])
    blocks = [len(block) for _, block in D.distance_blocks(x, y)]
    assert blocks == [16, 16, 16, 16, 6]
    assert D.nearest(y[:5] + 0, y)[0].max() == 0


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_intervals_are_as_wide_as_the_metric_scatters(shift: float) -> None:
    """Over fresh draws of the data the standard deviation of each metric is what its interval claims."""
    fixed = features(400, 6, seed=99)  # intervals of neighbourhoods are given the real set
    metrics = {
        "frechet": lambda x, y: D.frechet_distance(x, y),
        "kernel": lambda x, y: D.kernel_distance(x, y, subsets=20, subset_size=200),
        "inception": lambda x, y: D.inception_score((3 * y).softmax(1)),
        "median": lambda x, y: D.ratio_of_medians(x.norm(dim=1), y.norm(dim=1)),
        "precision": lambda x, y: D.neighbourhoods(fixed, y).precision,
    }
    draws: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    for i in range(30):
        x, y = features(400, 6, seed=2 * i), features(400, 6, seed=2 * i + 1, shift=shift) * (1 + shift)
        for name, metric in metrics.items():
            estimate = metric(x, y)
            low, high = estimate.interval(resamples=200)
            draws[name].append((estimate.value, (high - low) / (2 * 1.96)))
    for name, pairs in draws.items():
        values, claimed = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        assert 0.6 < float(claimed.mean() / values.std()) < 2.0, name
