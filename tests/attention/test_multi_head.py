import pytest
import torch

from gander.attention import MultiHeadAttention, kernels


def born(channels=12, heads=3, **how):
    torch.manual_seed(0)
    layer = MultiHeadAttention(channels, heads=heads, **how).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    if layer.gains is not None:
        torch.nn.init.normal_(layer.gains, mean=1.0)
    return layer


def image(b=2, c=12, h=3, w=4):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_is_its_formula_one_query_at_a_time(qk_norm):
    layer, x = born(qk_norm=qk_norm), image()
    d, columns = 4, x.flatten(2)
    q, k, v = (torch.einsum("ec,bcn->ben", conv.weight[:, :, 0, 0], columns) for conv in (layer.query, layer.key, layer.value))
    o = torch.zeros_like(v)
    for head in range(3):
        part = slice(head * d, head * d + d)
        qs, ks = q[:, part], k[:, part]
        if qk_norm:
            qs, ks = (
                t / (t.square().mean(1, keepdim=True) + 1e-6).sqrt() * gain[:, None]
                for t, gain in zip((qs, ks), layer.gains, strict=True)
            )
        for i in range(12):
            share = torch.exp(torch.einsum("bc,bcm->bm", qs[..., i], ks) / d**0.5)
            share = share / share.sum(1, keepdim=True)
            o[:, part, i] = torch.einsum("bm,bcm->bc", share, v[:, part])
            torch.testing.assert_close(layer.weights(x, [i])[:, head, 0].flatten(1), share)
    y = torch.einsum("ec,bcn->ben", layer.output.weight[:, :, 0, 0], o).view_as(x)
    torch.testing.assert_close(layer(x), x + 0.7 * y)


@pytest.mark.parametrize("way", kernels.WAYS)
def test_every_way_is_the_same(monkeypatch, way):
    layer, x = born(), image()
    expected = layer(x)
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    torch.testing.assert_close(layer(x), expected)


def test_does_not_care_where_a_pixel_stands_unless_it_is_told():
    layer, x, order = born(), image(), torch.randperm(12)

    def shuffled(t):
        return t.flatten(2)[:, :, order].view_as(t)

    torch.testing.assert_close(layer(shuffled(x)), shuffled(layer(x)))
    told = born(rotary=True)
    assert (told(shuffled(x)) - shuffled(told(x))).abs().max() > 0.01


def test_with_rotary_alone_likeness_fades_with_distance():
    """Of an image that is alike everywhere each pixel looks around itself, equally to both sides."""
    layer = born(rotary=True)
    with torch.no_grad():
        layer.key.weight.copy_(layer.query.weight)
        layer.gains.fill_(3.0)
    maps = layer.weights(torch.ones(1, 12, 7, 7, dtype=torch.float64), [24])[0, :, 0]
    torch.testing.assert_close(maps, maps.flip(1, 2))
    assert (maps[:, 3, 3] == maps.amax((1, 2))).all()
    assert (maps[:, 3, 3] > 1.05 * maps[:, 3, 4]).all()


def test_normed_scores_are_bounded():
    layer, x = born(), 1e4 * image()
    bound = 2 * 4**0.5 * (layer.gains[0] * layer.gains[1]).abs().max()
    maps = layer.weights(x)
    assert (maps.amax((-2, -1)) / maps.amin((-2, -1))).log().max() <= bound
    assert born(qk_norm=False).weights(x).amax((-2, -1)).min() > 0.999
