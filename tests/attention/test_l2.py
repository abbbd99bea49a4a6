import pytest
import torch
from scipy.special import lambertw
from torch.autograd.functional import jacobian

from gander.attention import L2Attention, MultiHeadAttention, kernels


def born(channels=6, heads=2, gamma=0.7, **how):
    torch.manual_seed(channels)
    layer = L2Attention(channels, heads=heads, **how).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    return layer


def image(b=1, c=6, h=2, w=3, seed=1):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tie_values", [True, False])
def test_is_its_formula(tie_values):
    layer, x = born(tie_values=tie_values), image(2)
    tokens = x.flatten(2).mT  # b n c
    w, v = (conv.weight[:, :, 0, 0].unflatten(0, (2, 3)).mT for conv in (layer.query, layer.value))  # heads c d
    found = []
    for head in range(2):
        z = tokens @ w[head]
        shares = torch.exp(-(z[:, :, None] - z[:, None]).square().sum(-1) / 3**0.5)
        shares = shares / shares.sum(-1, keepdim=True)
        torch.testing.assert_close(layer.weights(x)[:, head].flatten(2), shares)
        found.append(shares @ tokens @ (w[head] @ w[head].T / 3**0.5 if tie_values else torch.eye(6).double()) @ v[head])
    o = torch.cat(found, -1).mT.view_as(x)
    torch.testing.assert_close(layer(x), x + 0.7 * layer.output(o))


@pytest.mark.parametrize("way", kernels.WAYS)
def test_every_way_is_the_same(monkeypatch, way):
    layer, x = born(), image(2)
    expected = layer(x)
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    torch.testing.assert_close(layer(x), expected)


def test_nobody_is_nearer_to_a_pixel_than_itself():
    maps = born().weights(3 * image()).flatten(3)
    assert (maps.diagonal(dim1=2, dim2=3) == maps.amax(-1)).all()


def slope(layer, x):
    """The spectral norm of the Jacobian of x -> output(o)."""
    return torch.linalg.matrix_norm(jacobian(lambda x: (layer(x) - x).flatten() / layer.gamma, x).flatten(1), 2).item()


def proven(layer, n):
    """Theorem 3.2 of Kim et al., in the 2-norm. φ⁻¹(n - 1) is Lambert's W of (n - 1) / e."""
    w, v = (conv.weight[:, :, 0, 0].unflatten(0, (layer.heads, -1)) for conv in (layer.query, layer.value))
    norms = (torch.linalg.matrix_norm(w, 2) * torch.linalg.matrix_norm(v, 2)).square().sum().sqrt()
    inverse = lambertw((n - 1) / torch.e).real
    return (
        (n / layer.width) ** 0.5 * (4 * inverse + 1) * norms.item() * torch.linalg.matrix_norm(layer.output.weight[:, :, 0, 0], 2)
    )


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_changes_no_faster_than_is_proven(heads):
    """Nowhere: where pixels are alike, and where they are far apart."""
    layer = born(heads=heads)
    bound = proven(layer, 6)
    slopes = [slope(layer, size * image(seed=seed)) for seed in range(5) for size in (0, 0.3, 1, 3, 30, 1000)]
    assert bound / 30 < max(slopes) <= bound


def test_products_change_the_faster_the_larger_x():
    """What distances are for. A pixel of zeros looks at all others equally, and they are far from one another."""
    by_product, by_distance, x = MultiHeadAttention(6, heads=2, qk_norm=False).double(), born(), image()
    torch.nn.init.ones_(by_product.gamma)
    x[..., 0, 0] = 0
    slopes = [slope(by_product, size * x) for size in (1, 10, 100)]
    assert slopes[1] > 5 * slopes[0]
    assert slopes[2] > 20 * slopes[1]
    assert all(slope(by_distance, size * x) <= proven(by_distance, 6) for size in (1, 10, 100))


def test_only_tied_values_are_bounded():
    """A pixel between two others, as near as can be to W, which sees the first channel alone, and far apart in the second."""
    x = torch.tensor([[[[0.0, 1.0, -1.0]], [[0.0, 1000.0, -1000.0]]]], dtype=torch.float64)
    for tied in (True, False):
        layer = born(2, heads=1, tie_values=tied)
        with torch.no_grad():
            layer.query.weight[:, 1] = 0
        assert (slope(layer, x) <= proven(layer, 3)) == tied


def test_distances_are_not_of_half_precision():
    """Far from zero and near to one another: as products of bfloat16 they would be noise."""
    layer, x = born().float(), image().float() + 20
    with torch.autocast("cpu", torch.bfloat16):
        z = layer.query(x).double().flatten(2).unflatten(1, (2, 3)).mT
        maps = layer.weights(x)
    exact = (-torch.cdist(z, z).square() / 3**0.5).softmax(-1)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.flatten(3).double(), exact, atol=1e-3, rtol=1e-3)
    assert exact.std() > 0.05
