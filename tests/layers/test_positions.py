import math

import pytest
import torch

from gander.errors import UserError
from gander.layers import LearnedPositions, SinusoidalPositions, rotary, sinusoidal


def test_sinusoidal_is_its_formula():
    table = sinusoidal(12, (5, 7))
    for i in range(3):
        rate = 10_000 ** (-4 * i / 12)
        for row in range(5):
            for column in range(7):
                expected = [f(rate * at) for at in (row, column) for f in (math.sin, math.cos)]
                torch.testing.assert_close(table[i::3, row, column], torch.tensor(expected))


def test_every_place_has_its_own_sines_and_likeness_is_of_distance():
    table = sinusoidal(32, (16, 16)).flatten(1).double()
    likeness = table.T @ table
    assert (likeness.diagonal() == likeness.amax(0)).all()
    assert (likeness - torch.diag(likeness.diagonal())).max() < 15.6  # of c / 2 = 16
    likeness = likeness.view(16, 16, 16, 16)
    torch.testing.assert_close(likeness[2, 3, 5, 9], likeness[8, 1, 11, 7])


def turned(t, size):
    """One pixel and one pair of channels at a time, by complex numbers."""
    result, count = t.clone(), t.shape[-1] // 4
    for n in range(size[0] * size[1]):
        for axis, at in enumerate(divmod(n, size[1])):
            for i in range(count):
                a = 2 * count * axis + i
                pair = torch.complex(t[:, :, n, a], t[:, :, n, a + count])
                pair = pair * complex(math.cos(at * 100 ** (-i / count)), math.sin(at * 100 ** (-i / count)))
                result[:, :, n, a], result[:, :, n, a + count] = pair.real, pair.imag
    return result


@pytest.mark.parametrize("width", [1, 3, 4, 8, 11])
def test_rotary_is_its_formula(width):
    t = torch.randn(2, 3, 12, width, dtype=torch.float64)
    torch.testing.assert_close(rotary(t, (3, 4)), turned(t, (3, 4)))
    torch.testing.assert_close(rotary(t, (3, 4)).norm(dim=-1), t.norm(dim=-1))


def test_products_of_turned_rows_hang_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).expand(-1, 1, 1, 35, 16)
    products = (rotary(q, (5, 7)) @ rotary(k, (5, 7)).mT).view(5, 7, 5, 7)
    torch.testing.assert_close(products[0, 1, 2, 4], products[2, 3, 4, 6])
    torch.testing.assert_close(products[3, 3, 1, 2], products[2, 1, 0, 0])
    assert (products[0, 0, 1, 0] - products[0, 0, 0, 1]).abs() > 1e-3
    assert (products[0, 0, 1, 0] - products[1, 0, 0, 0]).abs() > 1e-3


def test_rotary_keeps_the_type():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert rotary(torch.randn(1, 1, 6, 8, dtype=dtype), (2, 3)).dtype == dtype
    assert rotary(torch.empty(1, 1, 6, 8, device="meta"), (2, 3)).shape == (1, 1, 6, 8)


def test_layers_add_their_table():
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(SinusoidalPositions()(x), x + sinusoidal(8, (3, 5)))
    learned = LearnedPositions(8, (3, 5))
    assert torch.equal(learned(x), x + learned.table)
    assert 0.015 < LearnedPositions(64, (9, 9)).table.std() < 0.025
    learned(x).square().sum().backward()
    assert (learned.table.grad != 0).all()
    assert SinusoidalPositions()(x.bfloat16()).dtype == torch.bfloat16


def test_mistakes_are_named():
    for channels in (0, 6):
        with pytest.raises(UserError, match=f"4 channels a frequency, and {channels} were asked for; take a multiple of 4"):
            sinusoidal(channels, (2, 2))
    with pytest.raises(UserError, match="learned positions of 8×3×5 got an input of 8×5×3; make them for its size"):
        LearnedPositions(8, (3, 5))(torch.zeros(1, 8, 5, 3))
