"""What `--vary` becomes, and what it is refused for."""

import re

import pytest

from gander import cli, recipes
from gander.errors import UserError
from gander.recipes.experiment import Facts
from gander.study import arms

SAGAN = recipes.load("sagan")
KNOWN = recipes.knobs(SAGAN)
FACTS = Facts(1000, 0, 3)
SMALL = {"resolution": 16, "width": 8, "batch": 8, "steps": 4}


def test_words_become_values_of_their_knobs_types():
    words = ["attention=none,self+feature", "width=16,32", "generator-lr=1e-4,2e-4", "flip=True,False", "betas=0 0.9,0.5 0.99"]
    assert arms.varied(words, KNOWN) == {
        "attention": ["none", "self+feature"],
        "width": [16, 32],
        "generator_lr": [1e-4, 2e-4],
        "flip": [True, False],
        "betas": [(0.0, 0.9), (0.5, 0.99)],
    }
    assert arms.varied(["attention_at=None,8,4 8"], KNOWN) == {"attention_at": [None, (8,), (4, 8)]}
    assert arms.varied({"width": (16, 32)}, KNOWN) == {"width": [16, 32]}  # of Python as they are


@pytest.mark.parametrize(
    ("vary", "line"),
    [
        (["attenton=none,self"], "no knob called 'attenton'; did you mean 'attention'?"),
        (["attention"], "--vary attention names no values; say it like"),
        (["attention=none"], "--vary attention=none leaves nothing to compare with; give two values or more"),
        (["attention=none,self,none"], "--vary attention has none twice"),
        (["width=16,wide"], "--vary width: 'wide' is not a value of this knob; its default is 64"),
        (["width=016,16"], "width has 16 twice"),
        (["loss=hinge,hing"], "--vary loss: 'hing' is not a value"),
        (["width=16,"], "--vary width=16, has an empty value; put one on both sides of each comma"),
        (["attention=none,,self"], "--vary attention=none,,self has an empty value"),
        (["attention=none, "], "has an empty value"),
        (["width=8,16", "width=32,64"], "--vary width is given twice"),
        ([], "nothing is varied"),
        ({"width": [8]}, "leaves nothing to compare with"),
    ],
)
def test_what_cannot_be_varied(vary, line):
    with pytest.raises(UserError, match=re.escape(line)) as error:
        arms.varied(vary, KNOWN)
    assert "\n" not in str(error.value)


def test_a_grid_has_an_arm_for_each_pair_of_values():
    made, trials = arms.arms(SAGAN, FACTS, {"attention": ["none", "self"], "width": [8, 16]}, {**SMALL, "width": 64})
    assert [arm.name for arm in made] == [
        f"attention {attention}, width {width}" for attention in ("none", "self") for width in (8, 16)
    ]
    assert len({arm.folder for arm in made}) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", arm.folder) for arm in made)
    assert made[0].parameters < made[1].parameters
    assert len(trials) == 4
    assert made[0].parameters == sum(p.numel() for n in ("generator", "discriminator") for p in trials[0].networks[n].parameters())
    assert [arm.steps for arm in made] == [4] * 4


def test_names_that_would_share_a_folder_do_not():
    made, _ = arms.arms(SAGAN, FACTS, {"attention": ["self+full", "full+self", "none"]}, SMALL)
    assert [arm.name for arm in made] == ["self+full", "full+self", "none"]
    made, _ = arms.arms(SAGAN, FACTS, {"generator_lr": [0.1, 0.01, 0.001]}, SMALL)
    assert [arm.folder for arm in made] == ["generator_lr-0-1", "generator_lr-0-01", "generator_lr-0-001"]
    assert arms._folder({"a": "x+y"}, ["x-y"]) == "x-y-2"


def test_a_value_that_the_recipe_refuses_is_refused_before_any_run():
    with pytest.raises(UserError, match="did you mean 'self'"):
        arms.arms(SAGAN, FACTS, {"attention": ["none", "sel"]}, SMALL)
    with pytest.raises(UserError, match="width is both varied and set to 8"):
        arms.arms(SAGAN, FACTS, {"width": [8, 16]}, SMALL)


def test_equal_parameters_takes_the_nearest_width():
    """No width beside it comes nearer, and a layer that needs another size is passed over."""
    made, _ = arms.arms(SAGAN, FACTS, {"latent": [512, 16]}, {**SMALL, "width": 24}, same_parameters=True)
    plain, moved = made
    assert plain.knobs["width"] == 24
    width = moved.knobs["width"]
    assert width != 24
    resolved = recipes.resolve(SAGAN, {**SMALL, "latent": 16})

    def apart(width):
        return abs(arms.parameters(arms.built(SAGAN, FACTS, {**resolved, "width": width})) - plain.parameters)

    assert abs(moved.parameters - plain.parameters) == apart(width) <= min(apart(width - 1), apart(width + 1))

    def odd_widths_only(facts, *, width: int = 9):
        if width % 2 == 0:
            raise UserError("even")
        return SAGAN(facts, **{**resolved, "width": width})

    target = arms.parameters(arms.built(SAGAN, FACTS, {**resolved, "width": 14}))
    assert arms.widened(odd_widths_only, FACTS, {"width": 9}, target)[0] in (13, 15)


def test_equal_parameters_needs_a_width_that_is_not_varied():
    with pytest.raises(UserError, match="which is varied"):
        arms.arms(SAGAN, FACTS, {"width": [8, 16]}, {}, same_parameters=True)

    def narrow(facts, *, attention: str = "none"): ...

    with pytest.raises(UserError, match="moves the knob `width`, which this recipe has not"):
        arms.arms(narrow, FACTS, {"attention": ["none", "self"]}, {}, same_parameters=True)


def test_values_come_back_from_the_words_that_a_run_is_told():
    values = {"width": 24, "betas": (0.5, 0.99), "flip": True, "dequantize": False, "augment": "color,cutout"}
    values |= {"generator_lr": 3e-05, "loss": "logistic"}
    for at in (None, (8,), (4, 8)):
        told = {**values, "attention_at": at}
        said = [word for name, value in told.items() for word in arms.words(name, value)]
        again = cli._parse("x", SAGAN, {}, dict(KNOWN), said)
        assert {name: again[name] for name in told} == told
