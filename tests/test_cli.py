"""The command line as a person meets it: what works, and the one line that every mistake gets."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from gander import cli, verbs
from gander.recipes import RECIPES

TINY = [
    "--resolution",
    "16",
    "--width",
    "4",
    "--batch",
    "8",
    "--steps",
    "4",
    "--sample-every",
    "2",
    "--save-every",
    "2",
    "--log-every",
    "1",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path):
    """Two classes of twelve noisy images, 20×24 pixels."""
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(generator.integers(0, 256, (24, 20, 3), np.uint8)).save(tmp_path / "photos" / kind / f"{i}.png")
    return tmp_path / "photos"


def test_verbs_of_the_command_line_are_those_of_the_library():
    assert cli.VERBS.keys() == verbs.VERBS.keys()


def test_recipes_are_those_of_the_folder():
    from pathlib import Path

    import gander.recipes

    files = {f.stem for f in Path(gander.recipes.__file__).parent.glob("*.py")} - {"__init__", "experiment"}
    assert files == RECIPES.keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "no verb called 'trian'; did you mean 'train'?"),
        ("train", "wants a recipe first"),
        ("train sagn --data photos", "no recipe called 'sagn'; did you mean 'sagan'?"),
        ("train sagan", "needs --data: a folder"),
        (
            "train sagan --data photos --discriminator-rl 1",
            "no knob called '--discriminator-rl'; did you mean '--discriminator-lr'?",
        ),
        ("train sagan --data photos --width wide", "--width: .*'wide'"),
        ("train sagan --data photos --betas 0.5", "betas"),
        ("train sagan --data photos --loss hing", "hing"),
        ("train sagan --data nowhere", "nowhere"),
        ("train sagan --data photos --resolution 48", "resolution 48 is not one of 16"),
        ("train sagan --data photos --resolution 16 --attention-at 64", "attention at 64"),
        ("train sagan --data photos --resolution 16 --attention sel", "did you mean 'self'"),
        ("train sagan --data photos --resolution 16 --batch 64", "fewer than a batch of 64; take --batch 24"),
        ("train sagan --data photos --resolution 16 --batch 9 --accumulate 2", "9 cannot be cut into 2"),
        ("train sagan --data photos --resolution 16 --batch 8 --augment colour", "did you mean 'color'"),
        ("train sagan --data photos --split test", "split"),
        ("train sagan --data probe:twin", "did you mean 'twins'"),
        ("train sagan --data photos --device tpu", "device"),
        ("train sagan --data photos --device cuda:97", "cuda|GPU"),
        ("train sagan --data photos --resolution 16 --batch 8 --precision fp64", "no precision called 'fp64'"),
        ("train sagan --data photos --log-every 0", "--log-every 0"),
        ("train sagan --data photos --width 0", "width 0 is not a whole number from 1 on"),
        ("train sagan --data photos --steps -3", "steps -3 is not"),
        ("train sagan --data photos --generator-lr -1", "generator_lr -1.0 is not a number from 0 on"),
        ("train sagan --data photos --generator-lr nan", "generator_lr nan is not"),
        ("train sagan --data photos --resolution 16 --ema 1", "ema 1.0 is not"),
        ("train sagan --data photos --resolution 16 --betas 0.5 1.5", "betas"),
        ("train sagan --data photos --score-every 5 --score-features incepton", "score-features"),
        ("look", "wants a run first"),
        ("look nowhere", "nowhere does not exist; runs are made by"),
        ("look photos", "photos is no run"),
        ("serve", "wants a run first"),
        ("serve photos", "photos is no run"),
        ("look photos --positions 3", "positions"),
        ("compare", "wants a recipe first"),
        ("compare sagan --data photos", "gander compare sagan needs --vary: KNOB=VALUE"),
        ("compare sagan --data photos --vary attention=none,self --seeds 1", "an interval needs 2 seeds or more; --seeds 2"),
        ("compare sagan --data photos --vary attention=none", "leaves nothing to compare with; give two values or more"),
        ("compare sagan --data photos --vary attenton=none,self", "no knob called 'attenton'; did you mean 'attention'"),
        ("compare sagan --data photos --vary attention=none,self --widht 3", "no knob called '--widht'; did you mean '--width'"),
        ("compare sagan --data photos --vary attention=none,self --run x", "no knob called '--run'"),
        ("compare sagan --data photos --vary attention=none,self --vary width=4,wide", "'wide' is not a value of this knob"),
        ("compare sagan --data photos --resolution 16 --batch 8 --vary attention=none,sel", "did you mean 'self'"),
        ("compare sagan --data photos --resolution 16 --batch 8 --vary attention=none,self --cluster slurm", "slurm|submitit"),
        ("score", "wants a run or a folder of images first"),
        ("score nowhere", "nowhere does not exist"),
        ("score photos", "photos is no run, which would know its images; name the real ones: --data FOLDER"),
        ("score photos --data photos", "photos has 24 images, where scores of fewer than 1,000 say little; --samples 24 gives"),
        ("score photos --data photos --samples 25", "photos has 24 images, fewer than the 25 asked for; take --samples 24"),
        ("score photos --data photos --samples 3", "--samples 3 are too few for any score; take 20 or more"),
        ("score photos --data nothing --samples 24", "there is no folder or file 'nothing'"),
        ("score photos --data none.safetensors --samples 24", "there is no file none.safetensors"),
        ("score photos --data photos --samples 24 --floor", "held out, and photos has no split"),
        ("score photos --data photos --samples 24 --features dino", "no features called 'dino'; did you mean 'dinov2'"),
        ("predict", "wants a run first"),
        ("lr", "wants a recipe first"),
        ("score photos --data photos --samples 24 --step 3", "--step is for runs, and there is none among photos; leave it out"),
        ("score photos --data photos --samples 24 --seed 3", "--seed is for runs"),
        ("score photos --data photos --samples 24 --truncation 0", "--truncation is for runs"),
        ("score photos --data photos.safetensors --split val --samples 24", "holds vectors of one split; leave it out"),
        ("train sagan --data photos --score-every -2", "--score-every -2 is not a number of steps"),
        ("score photos --data photos --samples 24 --features random-conv --weights a.pth", "random-conv has no weights to load"),
        ("score photos --data photos --samples 24 --weights a.pth", "a.pth cannot be read"),
        ("score photos --data photos --samples 24 --save-reference real.pt", "does not end in .safetensors"),
        ("train ./mine.py --data photos", "no recipe file mine.py"),
        ("sample nowhere", "nowhere does not exist; runs are made by `gander train`"),
        ("sample photos", "photos is no run"),
        ("cp sagan mine.txt", "does not end in .py"),
        ("check nowhere", "nowhere"),
        ("show sagan --widht 3", "did you mean '--width'"),
        ("ls --all", "no flag called '--all'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(line, message, say, photos):
    code, _, err = say(line)
    assert code == 2
    assert err.startswith("gander: ")
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert not (photos.parent / "runs").exists() or not list((photos.parent / "runs").rglob("*.safetensors"))


def test_train_stop_go_on_and_sample(say, photos):
    """The story of the README: train, look, say it again, take more steps, sample."""
    code, out, err = say("train sagan_official --data photos", *TINY)
    assert code == 0
    assert "24 images at 16 px" in out
    assert "runs/sagan_official-photos is finished: 4 steps" in out
    assert re.search(r"step 4/4 .* images/s", err)
    run = photos.parent / "runs" / "sagan_official-photos"
    assert sorted(f.name for f in run.iterdir()) == ["checkpoints", "lock", "log.jsonl", "run.json", "samples"]
    assert sorted(f.name for f in (run / "samples").iterdir()) == ["00000000.png", "00000002.png", "00000004.png"]
    described = json.loads((run / "run.json").read_text())
    assert described["classes"] == ["cats", "dogs"]
    assert described["facts"] == {"num_images": 24, "num_classes": 2, "channels": 3}
    assert described["knobs"]["width"] == 4
    assert described["knobs"]["generator_lr"] == 1e-4

    log = (run / "log.jsonl").read_bytes()
    code, out, _ = say("train sagan_official --data photos", *TINY)
    assert (code, (run / "log.jsonl").read_bytes()) == (0, log)
    assert "is finished" in out
    code, out, _ = say("train sagan_official --data photos", *TINY, "--steps", 6)
    assert code == 0
    assert "going on with" in out
    assert json.loads((run / "run.json").read_text())["knobs"]["steps"] == 6

    code, _, err = say("train sagan_official --data photos", *TINY, "--width", 8)
    assert code == 2
    assert "width was 4, now 8" in err
    assert "--run runs/sagan_official-photos-2" in err
    code, _, err = say("train sagan_official --data photos", *TINY, "--seed", 1)
    assert "seed was 0, now 1" in err
    code, _, err = say("train sagan --data photos --run runs/sagan_official-photos", *TINY)
    assert code == 2
    assert "recipe was 'sagan_official', now 'sagan'" in err

    assert say("sample runs/sagan_official-photos --count 5 --out five --label dogs")[0] == 0
    assert len(list((photos.parent / "five").glob("*.png"))) == 5
    with Image.open(photos.parent / "five" / "000000.png") as image:
        assert image.size == (16, 16)
    assert say("sample runs/sagan_official-photos --count 3 --out sheet.png --truncation 0.7 --standing 2")[0] == 0
    assert say("sample runs/sagan_official-photos --count 3 --interpolate 4 --out film.gif")[0] == 0
    with Image.open(photos.parent / "film.gif") as film:
        assert film.n_frames == 12
    code, out, _ = say("sample runs/sagan_official-photos --count 2 --interpolate 4")
    assert code == 0
    assert "8 images of step 6" in out
    code, _, err = say("sample runs/sagan_official-photos --label horses")
    assert code == 2
    assert "no class called 'horses'" in err
    code, _, err = say("sample runs/sagan_official-photos --step 3")
    assert "no checkpoint of step 3; there are: 4, 6" in err
    code, _, err = say("sample runs/sagan_official-photos --out sheet.bmp")
    assert code == 2


def test_labels_are_ignored_by_name_and_asked_in_vain(say, photos):
    code, out, _ = say("train sagan --data photos", *TINY)
    assert code == 0
    assert "the labels (2 classes) are not used" in out
    code, _, err = say("sample runs/sagan-photos --label cats")
    assert code == 2
    assert "has no labels" in err


def test_a_recipe_of_ones_own(say, photos):
    assert say("cp dcgan mine.py")[0] == 0
    assert say("cp dcgan mine.py")[0] == 2
    code, out, _ = say("train ./mine.py --data photos", *TINY)
    assert code == 0, out
    code, _, err = say("sample runs/mine-photos")
    assert code == 2
    assert "--recipe ./mine.py" in err
    assert say("sample runs/mine-photos --recipe ./mine.py --count 2")[0] == 0


def test_init_starts_from_the_weights_of_a_run_or_file(say, photos):
    assert say("train sagan --data photos --run a", *TINY)[0] == 0
    assert say("train sagan --data photos --run b --init a", *TINY)[0] == 0
    file = photos.parent / "a" / "checkpoints" / "00000004" / "generator_ema.safetensors"
    assert say("train sagan --data photos --run c --init", file, *TINY)[0] == 0
    code, _, err = say("train sagan --data photos --run d --init a --attention none", *TINY)
    assert code == 2
    assert "it is of another network or other knobs" in err or "are the knobs the same" in err
    assert (photos.parent / "b" / "samples" / "00000000.png").read_bytes() == (
        photos.parent / "a" / "samples" / "00000004.png"
    ).read_bytes()


def test_a_renamed_folder_is_the_same_data(say, photos):
    assert say("train sagan --data photos --run r", *TINY)[0] == 0
    photos.rename(photos.parent / "pictures")
    code, out, _ = say("train sagan --data pictures --run r", *TINY)
    assert code == 0
    assert "is finished" in out


def test_a_signal_while_images_are_prepared_is_heard(say, photos, monkeypatch):
    """Also in its very last moment, when nothing is left to interrupt."""
    import gander.data

    prepare = gander.data.prepare

    def late(*args, **options):
        dataset = prepare(*args, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return dataset

    monkeypatch.setattr(gander.data, "prepare", late)
    code, out, _ = say("train sagan --data photos --run r", *TINY)
    assert code == 143
    assert "stopped before the first step" in out
    assert not (photos.parent / "r").exists()


def test_another_run_is_refused_before_the_images_are_prepared(say, photos, monkeypatch):
    import gander.data

    assert say("train sagan --data photos --run r", *TINY)[0] == 0
    monkeypatch.setattr(gander.data, "prepare", None)
    code, _, err = say("train sagan --data photos --run r", *TINY, "--width", 8)
    assert code == 2
    assert "width was 4, now 8" in err


def test_many_single_files_are_those_of_a_sheet(say, photos):
    """They are drawn in parts, so that any number fits into memory."""
    assert say("train sagan --data photos", *TINY)[0] == 0
    assert say("sample runs/sagan-photos --count 300 --out many")[0] == 0
    assert say("sample runs/sagan-photos --count 300 --out all.png")[0] == 0
    with Image.open(photos.parent / "many" / "000299.png") as last, Image.open(photos.parent / "all.png") as sheet:
        assert len(list((photos.parent / "many").iterdir())) == 300
        scale = round(sheet.width / (8 * 18 - 2))
        left, top = 299 % 8 * 18, 299 // 8 * 18
        there = np.asarray(sheet)[::scale, ::scale][top : top + 16, left : left + 16].astype(int)
        assert abs(there - np.asarray(last).astype(int)).max() <= 1


def test_a_grey_run(say, photos):
    assert say("train sagan --data photos --channels 1", *TINY)[0] == 0
    assert say("sample runs/sagan-photos --count 2 --out grey")[0] == 0
    with Image.open(photos.parent / "grey" / "000001.png") as image:
        assert image.mode == "L"


def test_probes_are_graded_on_the_way(say, tmp_path, monkeypatch):
    code, out, _ = say("train sagan_official --data probe:count --score-every 2 --run graded", *TINY)
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "graded" / "log.jsonl").read_text().splitlines()]
    graded = [line for line in lines if "count/right_count" in line]
    assert [line["step"] for line in graded] == [2, 4]
    assert all(0 <= line["count/right_count"] <= 1 for line in graded)
    assert all(line["score/Fréchet[random-conv]"] > 0 for line in graded)
    protocol = json.loads((tmp_path / "graded" / "scores.json").read_text())["training"]["card"]
    assert (protocol["samples"], protocol["reference_images"], protocol["reference"]) == (2560, 10_000, "count")
    assert "scores every 2 steps: Fréchet[random-conv] and kernel distance of 2,560 samples against 10,000" in out
    assert re.search(r"the lowest Fréchet\[random-conv\] was at step \d", out)


def test_show_prints_the_parameter_counts_of_the_sources(say):
    _, out, _ = say("show sagan_official --resolution 128 --num-classes 1000")
    assert "42,078,852" in out
    assert "39,463,618" in out
    _, out, _ = say("show sagan --resolution 128")
    assert "3,856,372" in out
    assert "2,801,202" in out
    assert re.search(r"--width +64 +64 is the article", out)
    assert re.search(r"a step +[\d,.]+ GFLOP", out)


def test_help_names_the_words_that_a_flag_takes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--resize {tf1,clean}" in shown
    assert "inception, dinov2, random-conv, or the folder of a classifier's run" in shown


def test_every_knob_has_its_reason():
    from gander import recipes

    for name in RECIPES:
        for knob, (_, _, reason) in recipes.knobs(recipes.load(name)).items():
            assert len(reason) > 10, f"{name}: {knob}"


def test_check_and_doctor_and_ls(say, photos):
    code, out, _ = say("check photos")
    assert code == 0
    assert "24" in out
    assert "cats" in out
    code, out, _ = say("doctor")
    assert code == 0
    assert "attention" in out
    code, out, _ = say("ls")
    assert "sagan_official" in out


def spoken(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "gander", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_saves_says_how_to_go_on_and_exits_by_its_signal(number, code, photos):
    words = ["train", "sagan", "--data", "photos", *TINY, "--steps", "100000", "--run", f"stopped{number}"]
    process = spoken(*words, cwd=photos.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    log = photos.parent / f"stopped{number}" / "log.jsonl"
    end = time.time() + 100
    while time.time() < end and (not log.exists() or log.read_text().count("\n") < 3):
        time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    step = int(
        re.search(r"stopped and saved at step ([\d,]+) of 100,000; say the same command again", out).group(1).replace(",", "")
    )
    assert (photos.parent / f"stopped{number}" / "checkpoints" / f"{step:08d}" / "manifest.json").exists()
    assert "Traceback" not in err


def test_torchrun_trains_the_same_run(say, photos):
    """Two processes, one folder: the first writes, and both compute what one process would."""
    from safetensors.torch import load_file

    words = ["train", "sagan_official", "--data", "photos", *TINY, "--run", "two"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gander", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launcher, *words], cwd=photos.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two is finished") == 1
    assert say("train sagan_official --data photos --run one", *TINY)[0] == 0
    one, two = (photos.parent / run / "checkpoints" / "00000004" / "generator.safetensors" for run in ("one", "two"))
    for name, tensor in load_file(one).items():
        assert abs(load_file(two)[name] - tensor).max() < 1e-3, name
    assert [json.loads(line)["step"] for line in (photos.parent / "two" / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]

    done = subprocess.run(
        [*launcher, *words, "--width", "8"], cwd=photos.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "width was 4, now 8" in done.stderr


def test_the_demo_from_end_to_end(tmp_path):
    """Four steps of each arm; `make demo` takes 1,250."""
    from pathlib import Path

    demo = Path(__file__).parent.parent / "examples" / "demo.py"
    environment = {**os.environ, "DEMO_STEPS": "4"}
    for _ in range(2):  # the second time both arms are finished, and are shown again
        done = subprocess.run(
            [sys.executable, str(demo)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"\n +4 +\d+% +\d+%\n", done.stdout)
        assert "Look at both: runs/demo/demo.png" in done.stdout
        assert "report.html" in done.stdout
    assert "2 runs side by side" in (tmp_path / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
    with Image.open(tmp_path / "runs" / "demo" / "demo.png") as picture:
        assert picture.width > 2 * picture.height * 0.9


def loaded_by(*words):
    """The modules that are loaded once these words have run."""
    code = f"import sys; from gander import cli; cli.main({list(words)!r}); print('\\n'.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_help_and_ls_load_no_torch():
    """What makes them quick; a timing would only say how busy the machine is."""
    for words in (["--help"], ["ls"], ["train", "--help"]):
        assert not {"torch", "numpy", "scipy"} & set(loaded_by(*words)), words
