"""CutMix: masks and boxes are what was drawn, sets are matched as trying all would match them, losses are their formulas."""

import itertools
import math

import pytest
import torch
from torch import nn

from gander.cutmix import CutMix, Regions, Verdicts, composite, consistency, generalised_iou, match, pixel_loss, set_loss
from gander.draws import generator
from gander.errors import UserError

SIZE = (12, 20)


def uniform(*shape, key=0):
    return torch.rand(*shape, generator=generator("cutmix", key), dtype=torch.float64)


def cut(rectangles=1, n=200, size=SIZE):
    game = CutMix(rectangles=rectangles)
    numbers = game.draw(generator("draw", rectangles), n)
    return numbers, game.cut(numbers, size)


def edges(box, size=SIZE):
    """Top, bottom, left, right in pixels: whole numbers."""
    x, y, w, h = box.double().tolist()
    found = [(y - h / 2) * size[0], (y + h / 2) * size[0], (x - w / 2) * size[1], (x + w / 2) * size[1]]
    assert all(abs(edge - round(edge)) < 1e-4 for edge in found)
    return [round(edge) for edge in found]


def painted(boxes):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    for box in boxes:
        top, bottom, left, right = edges(box)
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("rectangles", [1, 3])
def test_boxes_are_what_is_fake_to_the_pixel(rectangles):
    numbers, regions = cut(rectangles)
    counts = set()
    for number, real, boxes, there in zip(numbers, *regions, strict=True):
        fake, present = ~real[0], boxes[there]
        if number[0] < 0.5:  # the rectangles are real
            assert not len(present)
            assert real.any()
        else:
            counts.add(len(present))
            assert torch.equal(painted(present), fake)
        assert (boxes[~there] == 0).all()
    assert counts == set(range(1, rectangles + 1))
    assert 80 < regions.there.any(1).sum() < 120
    turned = numbers.clone()
    turned[:, 0] = 1 - numbers[:, 0]
    assert torch.equal(CutMix(rectangles=rectangles).cut(turned, SIZE).real, ~regions.real)


def test_the_rectangle_is_cutmix_s():
    """Sides √(1 - λ) of the image's; about its centre, which may be any pixel; cut off at the border."""
    lam, row, column = 0.75, 0.0, 0.52
    numbers = torch.tensor([[0.9, 0.5, lam, row, column], [0.1, 0.5, lam, row, column]])
    regions = CutMix().cut(numbers, SIZE)
    assert edges(regions.boxes[0, 0]) == [0, 3, 10 - 5, 10 + 5]  # 6 × 10, half of it above the border
    assert torch.equal(regions.real[0], ~regions.real[1])
    assert not regions.there[1]
    _, many = cut(n=4000, size=(8, 8))
    centres = many.boxes[many.there][:, :2]
    assert centres.min() < 0.1
    assert centres.max() > 0.9


def test_a_composite_s_numbers_do_not_hang_on_its_batch():
    numbers, regions = cut(3, 10)
    for i, parts in enumerate(zip(*(CutMix(rectangles=3).cut(share, SIZE) for share in numbers.split(5)), strict=True)):
        assert torch.equal(torch.cat(parts), regions[i])


def test_composites():
    _, regions = cut(2, 6)
    real, fake = uniform(6, 3, *SIZE), uniform(6, 3, *SIZE, key=1)
    mixed, m = composite(real, fake, regions), regions.real.double()
    assert torch.equal(mixed, m * real + (1 - m) * fake)


# Boxes


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.5, 0.5, 1, 1), (0.5, 0.5, 1, 1), 1),
        ((0.5, 0.5, 1, 1), (0.25, 0.5, 0.5, 1), 1 / 2),  # one within the other: the smaller's share
        ((0.25, 0.5, 0.5, 1), (0.75, 0.5, 0.5, 1), 0),  # side by side: no overlap, no gap
        ((0.25, 0.25, 0.5, 0.5), (0.75, 0.75, 0.5, 0.5), -1 / 2),  # two quarters of a square
        ((0.1, 0.5, 0.2, 1), (0.9, 0.5, 0.2, 1), -0.6),
        ((0.4, 0.5, 0.4, 0.2), (0.6, 0.5, 0.4, 0.2), 1 / 3),
        ((0.3, 0.5, 0, 0), (0.3, 0.5, 0, 0), 0),  # nothing
    ],
)
def test_generalised_iou(a, b, expected):
    a, b = (torch.tensor(box, dtype=torch.float64) for box in (a, b))
    assert generalised_iou(a, b).item() == pytest.approx(expected, abs=1e-12)
    assert generalised_iou(b, a).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(generalised_iou, (uniform(5, 1, 4).requires_grad_(), uniform(3, 4, key=1).requires_grad_()))


def predictions(b, q, m, key=0):
    boxes, true = uniform(b, q, 4, key=key), uniform(b, m, 4, key=key + 1)
    return boxes, torch.randn(b, q, generator=generator("scores", key), dtype=torch.float64), true, uniform(b, m, key=key + 2) < 0.7


def cost(boxes, scores, true):
    return 5 * (boxes - true).abs().sum() - 2 * generalised_iou(boxes, true) - 1 / (1 + (-scores).exp())


@pytest.mark.parametrize(("q", "m"), [(4, 3), (3, 3), (2, 3), (5, 1)])
def test_the_match_is_the_best_of_all(q, m):
    boxes, scores, true, there = predictions(6, q, m, key=q)
    image, query, target = match(boxes, scores, true, there)
    for i in range(6):
        present = there[i].nonzero().flatten().tolist()
        k, mine = min(q, len(present)), image == i
        every = [
            sum(cost(boxes[i, a], scores[i, a], true[i, b]) for a, b in zip(queries, targets, strict=True))
            for queries in itertools.permutations(range(q), k)
            for targets in itertools.combinations(present, k)
        ]
        found = [(a.item(), b.item()) for a, b in zip(query[mine], target[mine], strict=True)]
        assert len(found) == k == len({a for a, _ in found}) == len({b for _, b in found} & set(present))
        total = sum(cost(boxes[i, a], scores[i, a], true[i, b]) for a, b in found)
        assert float(total) == pytest.approx(float(min(every)), abs=1e-9)


def test_the_set_loss_is_its_formula():
    boxes, scores, true, there = predictions(5, 4, 3, key=9)
    image, query, target = match(boxes, scores, true, there)
    pairs = {(i, a): b for i, a, b in zip(image.tolist(), query.tolist(), target.tolist(), strict=True)}
    total = 0.0
    for i in range(5):
        said, weights = 0.0, 0.0
        for a in range(4):
            s, matched = scores[i, a].item(), (i, a) in pairs
            weight = 1.0 if matched else 0.1
            said -= weight * math.log(1 / (1 + math.exp(-s if matched else s)))
            weights += weight
            if matched:
                b = true[i, pairs[i, a]]
                total += float(5 * (boxes[i, a] - b).abs().sum() + 2 * (1 - generalised_iou(boxes[i, a], b)))
        total += said / weights
    assert set_loss(boxes, scores, true, there).item() == pytest.approx(total / 5, rel=1e-12)
    judged = torch.tensor([True, False, True, True, False])
    apart = [set_loss(*(part[i : i + 1] for part in (boxes, scores, true, there))) for i in (0, 2, 3)]
    torch.testing.assert_close(set_loss(boxes, scores, true, there, judged), sum(apart) / 5)


def test_the_order_of_a_set_is_nothing_and_shares_average_to_the_whole():
    boxes, scores, true, there = predictions(6, 4, 3)
    loss = set_loss(boxes, scores, true, there)
    p, t = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    torch.testing.assert_close(set_loss(boxes[:, p], scores[:, p], true[:, t], there[:, t]), loss)
    halves = [set_loss(*(part[i : i + 3] for part in (boxes, scores, true, there))) for i in (0, 3)]
    torch.testing.assert_close(sum(halves) / 2, loss)


def test_right_boxes_cost_nothing():
    _, _, true, there = predictions(6, 4, 3)
    scores = torch.where(there, 40.0, -40.0).double()
    assert set_loss(true, scores, true, there) < 1e-12
    nothing = torch.zeros_like(there)
    none = set_loss(true, scores, true, nothing)
    torch.testing.assert_close(none, nn.functional.softplus(scores).mean())
    boxes = true.requires_grad_()
    assert (torch.autograd.grad(set_loss(boxes, scores, true.detach(), nothing), boxes)[0] == 0).all()


def test_gradients_flow_into_boxes_and_scores():
    boxes, scores, true, there = predictions(3, 4, 2)
    assert torch.autograd.gradcheck(lambda b, s: set_loss(b, s, true, there), (boxes.requires_grad_(), scores.requires_grad_()))


def test_a_network_that_is_lost_says_so_by_its_loss():
    boxes, scores, true, there = predictions(3, 4, 2)
    assert set_loss(boxes * math.nan, scores, true, there).isnan()


# Pixels


def verdicts(b=4, key=0, size=SIZE, q=3):
    said = torch.randn(b, 1, *size, generator=generator("pixels", key), dtype=torch.float64)
    boxes, scores, *_ = predictions(b, q, 1, key)
    return Verdicts(said.mean((1, 2, 3)), said, boxes, scores)


def test_pixels_are_paid_for_being_right():
    _, regions = cut(n=4)
    said = verdicts().pixels
    right = [math.log1p(math.exp(-p if r else p)) for p, r in zip(said.flatten().tolist(), regions.real.flatten(), strict=True)]
    assert pixel_loss(said, regions.real).item() == pytest.approx(sum(right) / len(right), rel=1e-12)


def test_consistency_costs_nothing_where_a_pixel_is_judged_by_itself():
    _, regions = cut(n=4)
    real, fake = uniform(4, 1, *SIZE), uniform(4, 1, *SIZE, key=1)

    def judged(images):
        return images.sin()

    mixed = judged(composite(real, fake, regions))
    assert consistency(mixed, judged(real), judged(fake), regions) == 0
    off = mixed + 0.5 * regions.real
    assert consistency(off, judged(real), judged(fake), regions).item() == pytest.approx(regions.real.double().mean().item() / 4)
    given = [t.requires_grad_() for t in (off, judged(real), judged(fake))]
    assert torch.autograd.gradcheck(lambda a, b, c: consistency(a, b, c, regions), given)
    slopes = torch.autograd.grad(consistency(*given, regions), given)
    assert all(slope.norm() > 0 for slope in slopes[:2])


def test_the_terms_of_the_game():
    _, regions = cut(n=4)
    real, fake, mixed = (verdicts(key=10 * i) for i in range(3))
    game, softplus = CutMix(), nn.functional.softplus
    whole, there = torch.tensor([0.5, 0.5, 1, 1], dtype=torch.float64).expand(4, 1, 4), torch.ones(4, 1, dtype=torch.bool)
    regions = Regions(regions.real, regions.boxes.double(), regions.there)
    expected = {
        "pixels": (softplus(-real.pixels).mean() + softplus(fake.pixels).mean(), 0.5),
        "boxes": (softplus(real.scores).mean() + set_loss(fake.boxes, fake.scores, whole, there), 0.1),
        "cutmix_image": (softplus(mixed.image).mean(), 0.5),
        "cutmix_pixels": (pixel_loss(mixed.pixels, regions.real), 0.5),
        "cutmix_consistency": (consistency(mixed.pixels, real.pixels, fake.pixels, regions), 1.0),
        "cutmix_boxes": (set_loss(mixed.boxes, mixed.scores, regions.boxes, regions.there, regions.there.any(1)), 0.1),
    }
    terms = game.discriminator(real, fake, mixed, regions)
    assert terms.keys() == expected.keys()
    for name, (value, weight) in terms.items():
        torch.testing.assert_close(value, expected[name][0])
        assert weight == expected[name][1]
    assert game.discriminator(real, fake).keys() == {"pixels", "boxes"}
    generators = game.generator(fake)
    torch.testing.assert_close(generators["pixels_generator"], (softplus(-fake.pixels).mean(), 0.5))
    torch.testing.assert_close(generators["boxes_generator"], (softplus(fake.scores).mean(), 0.1))


@pytest.mark.parametrize(
    ("off", "left"),
    [
        ({"pixels": 0.0}, {"boxes", "cutmix_image", "cutmix_consistency", "cutmix_boxes"}),
        ({"boxes": 0.0, "image": 0.0}, {"pixels", "cutmix_pixels", "cutmix_consistency"}),
        ({"consistency": 0.0}, {"pixels", "boxes", "cutmix_image", "cutmix_pixels", "cutmix_boxes"}),
    ],
)
def test_each_can_be_off(off, left):
    _, regions = cut(n=4)
    regions = Regions(regions.real, regions.boxes.double(), regions.there)
    assert CutMix(**off).discriminator(*(verdicts(key=i) for i in range(3)), regions).keys() == left


def test_a_head_that_is_off_has_no_terms():
    _, regions = cut(n=4)
    image_alone = Verdicts(verdicts().image, None, None, None)
    assert CutMix().discriminator(image_alone, image_alone, image_alone, regions).keys() == {"cutmix_image"}
    assert CutMix().generator(image_alone) == {}


@pytest.mark.parametrize(
    ("given", "line"),
    [({"pixels": -1.0}, "pixels -1.0 .* 0 is off"), ({"boxes": math.nan}, "boxes nan"), ({"rectangles": 0}, "0 rectangles: .* 1")],
)
def test_mistakes_are_one_line(given, line):
    with pytest.raises(UserError, match=line) as error:
        CutMix(**given)
    assert "\n" not in str(error.value)
