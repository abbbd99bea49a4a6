import torch

from gander.attention import LinearAttention
from gander.attention.kernels import attend


def born(channels=12, heads=3):
    torch.manual_seed(0)
    layer = LinearAttention(channels, heads=heads).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


def image(b=2, c=12, h=3, w=4):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_is_its_formula():
    layer, x = born(), image()
    q, k, v = (conv(x).flatten(2).unflatten(1, (3, 4)) for conv in (layer.query, layer.key, layer.value))
    q, k = q.exp(), k.exp()
    q, k = q / q.sum(2, keepdim=True), k / k.sum(3, keepdim=True)
    maps = torch.einsum("bhcn,bhcm->bhnm", q, k)
    o = torch.einsum("bhnm,bhcm->bhcn", maps, v).flatten(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), x + 0.7 * layer.output(o))
    torch.testing.assert_close(layer.weights(x).flatten(3), maps)


def test_the_map_has_the_rank_of_a_head():
    layer, x = born(8, heads=2), 3 * image(c=8)
    assert (torch.linalg.matrix_rank(layer.weights(x).flatten(3)) == 4).all()


def test_one_channel_is_the_mean_and_many_can_point():
    """d = 1: all queries alike. Softmax attention is met where each query has a channel of its own."""
    maps = born(3, heads=3).weights(image(c=3))
    assert (maps.std(2) < 1e-12).all()
    v = image(1, 1, 1, 4)[0].mT[None]
    q, k = torch.eye(4, dtype=v.dtype) * 50, torch.eye(4, dtype=v.dtype) * 50
    o = q.softmax(-1) @ (k.softmax(-2).mT @ v)
    torch.testing.assert_close(o, attend(q[None, None], k[None, None], v, 1.0))
