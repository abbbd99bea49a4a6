"""Path length: the closed form where generator and features are linear, its error, and the line of each mistake."""

import numpy as np
import pytest
import torch

from gander.errors import UserError
from gander.metrics import path_length


def linear_paths(n, epsilon, dtype):
    """Features of both ends of n steps through g(w) = A w and f(x) = B x, and |B A (w₂ - w₁)|² of each."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 8, generator=draw, dtype=torch.float64), torch.randn(5, 20, generator=draw, dtype=torch.float64)
    first, second = torch.randn(2, n, 8, generator=draw, dtype=torch.float64)
    t = torch.rand(n, 1, generator=draw, dtype=torch.float64)
    ends = [(torch.lerp(first, second, at).to(dtype) @ a.T.to(dtype)) @ b.T.to(dtype) for at in (t, t + epsilon)]
    return ends, ((second - first) @ (b @ a).T).square().sum(1).numpy()


@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 1.0])
def test_of_linear_maps_it_is_the_closed_form_whatever_the_step(epsilon):
    (start, end), lengths = linear_paths(50, epsilon, torch.float64)
    found = path_length(start, end, epsilon)
    assert found.length == pytest.approx(lengths.mean(), rel=1e-9)
    assert found.error == pytest.approx(lengths.std(ddof=1) / 50**0.5, rel=1e-9)


def test_it_grows_by_the_square_of_the_features():
    (start, end), _ = linear_paths(10, 1e-4, torch.float64)
    assert path_length(3 * start, 3 * end, 1e-4).length == pytest.approx(9 * path_length(start, end, 1e-4).length)
    assert path_length(start, start, 1e-4).length == 0


def test_float32_has_an_error_that_float64_has_not():
    (start, end), lengths = linear_paths(50, 1e-6, torch.float32)
    assert abs(path_length(start, end, 1e-6).length / lengths.mean() - 1) > 1e-3
    (start, end), lengths = linear_paths(50, 1e-6, torch.float64)
    assert path_length(start, end, 1e-6).length == pytest.approx(lengths.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "epsilon", "line"),
    [
        (np.zeros((1, 4)), np.zeros((1, 4)), 1e-4, "needs 2 or more"),
        (np.zeros((3, 4)), np.zeros((4, 4)), 1e-4, "3 paths have a start and 4 an end"),
        (np.zeros((3, 4)), np.zeros((3, 5)), 1e-4, "4 features an image, the reference 5"),
        (np.zeros((3, 4)), np.full((3, 4), np.nan), 1e-4, "NaN"),
        (np.zeros((3, 4)), np.zeros((3, 4)), 0.0, "take one over 0"),
    ],
)
def test_mistakes_get_one_line(start, end, epsilon, line):
    with pytest.raises(UserError, match=line) as error:
        path_length(start, end, epsilon)
    assert "\n" not in str(error.value)
