"""What `gander` can do, as functions: the command line is a few lines over these.

from gander import verbs
verbs.train("sagan", data="photos/", resolution=64)
verbs.sample("runs/sagan-photos", count=16)
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gander.errors import UserError
from gander.lr_finder import lr
from gander.predicting import predict
from gander.run import Run
from gander.study import compare
from gander.training import train

say: Callable[..., None] = print


def ls() -> None:
    """The recipes, and a sentence on each."""
    from gander.recipes import RECIPES

    for name, sentence in RECIPES.items():
        say(f"{name:22} {sentence}")
    say("\ngander show RECIPE: its knobs, sizes and costs.  gander train RECIPE --data FOLDER: go.")


def show(recipe: str, *, num_images: int = 50_000, num_classes: int = 0, channels: Literal[1, 3] = 3, **knobs: Any) -> None:
    """A recipe's knobs with their reasons, its networks' sizes, and what a step costs on this machine.

    Args:
        num_images: of the data you would give it.
        num_classes: of that data; 0 is without labels.
        channels: 3 for colour, 1 for grey.
    """
    import torch

    from gander import recipes
    from gander.estimate import estimate, worded
    from gander.recipes.experiment import Facts

    function = recipes.load(recipe)
    resolved = recipes.resolve(function, knobs)
    with torch.device("meta"):  # shapes without numbers: the largest network costs nothing to look at
        experiment = function(Facts(num_images, num_classes, channels), **resolved)
    say((sys.modules[function.__module__].__doc__ or "").strip() + "\n")
    for name, knob in recipes.knobs(function).items():
        say(f"  --{name.replace('_', '-'):20} {worded(resolved[name]):14} {knob.help}")
    say("")
    for name, network in experiment.networks.items():
        say(f"  {name:16} {sum(p.numel() for p in network.parameters() if p.requires_grad or name.endswith('ema')):,} parameters")
    for line in estimate(experiment, channels):
        say(f"  {line}")
    for note in experiment.notes:
        say(f"  note: {note}")


def sample(
    run: str,
    *,
    out: str | None = None,
    count: int = 64,
    seed: int = 0,
    label: str | None = None,
    truncation: float | None = None,
    interpolate: int = 0,
    step: int | None = None,
    network: Literal["ema", "live"] = "ema",
    standing: int = 8,
    device: str | None = None,
    recipe: str | None = None,
) -> Path:
    """Images from a trained run: a grid, single files, a film strip or a GIF.

    Args:
        run: folder of the run.
        out: a .png for one sheet, a .gif for a moving one, else a folder for single files; by default a sheet in the run's samples.
        count: how many images; with --interpolate how many to go through.
        seed: sample i of a seed is the same image in any number and batch.
        label: a class, by name or number; by default they go round.
        truncation: cut the latents to [-t, t]: the smaller, the more typical and alike.
        interpolate: steps between each image and the next, on the great circle between their latents; 0 is none.
        step: of which checkpoint; by default the last.
        network: the averaged generator (ema), or the one that was trained (live).
        standing: estimate batch norm's statistics anew over this many batches of 64; 0 takes the running ones of training.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from tqdm import tqdm

    from gander import distributed
    from gander.sampling import draw_images, kind_of, load_generator, numbered, write
    from gander.train.samples import columns_of

    the_run = Run.open(run)
    where = distributed.device(device)
    kind = kind_of(Path(out)) if out else "sheet"
    generator, at = load_generator(the_run, step=step, network=network, standing=standing, device=where, recipe=recipe)
    chosen = numbered(label, the_run.described.get("classes", []), generator.num_classes)
    options: dict[str, Any] = {"label": chosen, "truncation": truncation, "interpolate": interpolate, "device": where}
    path = Path(out) if out else the_run.samples / f"seed{seed}-step{at}{'-film' if interpolate else ''}.png"
    parts = [(0, count)]
    if kind == "folder" and not interpolate:  # any number of them, in little memory
        parts = [(start, min(256, count - start)) for start in range(0, count, 256)] or parts
    written = 0
    for start, some in tqdm(parts, unit="×256 images", disable=len(parts) == 1 or not sys.stderr.isatty()):
        images = draw_images(generator, seed, some, start=start, **options)
        columns = interpolate or (columns_of(generator) if chosen is None else None)
        write(path, images, columns, first=start)
        written += len(images)
    say(f"{written:,} images of step {at:,} in {path}")
    return path


def score(
    *what: str,
    data: str | None = None,
    split: str | None = None,
    features: str | None = None,
    weights: str | None = None,
    resize: Literal["tf1", "clean"] | None = None,
    samples: int | None = None,
    resolution: int | None = None,
    floor: bool = False,
    seed: int = 0,
    truncation: float | None = None,
    step: int | None = None,
    network: Literal["ema", "live"] = "ema",
    standing: int = 8,
    out: str | None = None,
    save_reference: str | None = None,
    device: str | None = None,
    recipe: str | None = None,
) -> list[Any]:
    """How good are a run's samples, or a folder's images? Distances, precision and recall, with errors and a card.

    Args:
        data: the real images, a folder or zip (or a .safetensors file of --save-reference); by default the run's own.
        split: which of their splits; by default that of the run, else train.
        features: what makes vectors of images: inception, dinov2, random-conv, or the folder of a classifier's run; by default
            inception where its weights are, else random-conv.
        weights: file of the reference Inception weights, with which figures are called FID and IS; for dinov2 of its own.
        resize: of images for Inception: tf1 is that of published figures, clean is antialiased (Parmar et al. 2021).
        samples: how many; by default 10,000 of a run, all images of a folder, 50,000 at most.
        resolution: side at which a folder's images are compared (squares, the centre cut out); by default the one that most have.
        floor: score as many held-out real images too: no sample can be expected to do better.
        seed: of the samples.
        truncation: cut the latents to [-t, t].
        step: of which checkpoint; by default the last.
        network: the averaged generator (ema), or the one that was trained (live).
        standing: batches of 64 that batch norm's statistics are estimated over; 0 takes the running ones.
        out: folder for scores.json and the picture of nearest training images; by default the run's; for folders none.
        save_reference: write the real images' vectors to this .safetensors file, to share or to score without the images.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    import time

    from gander import distributed, grids, scoring
    from gander.scoring import card, measured
    from gander.scoring.table import sheet, table

    if not what:
        raise UserError(
            "gander score wants a run or a folder of images first: gander score RUN, or gander score FOLDER --data REAL"
        )
    if save_reference and not save_reference.endswith(".safetensors"):
        raise UserError(f"--save-reference {save_reference} does not end in .safetensors; name it like reference.safetensors")
    asked: dict[str, Any] = {"data": data, "split": split, "samples": samples, "resolution": resolution, "floor": floor}
    asked |= {"seed": seed, "truncation": truncation, "step": step, "network": network, "standing": standing, "recipe": recipe}
    wanted = scoring.Wanted(**asked)
    scoring.check(what, wanted)
    places = [Path(out) if out else Path(where) if scoring.is_run(where) else None for where in what]
    for place in {place for place in places if place}:
        if place.exists() and not place.is_dir():
            raise UserError(f"--out {place} is a file; name a folder")
        card.read(place / "scores.json")
    if save_reference and not Path(save_reference).absolute().parent.is_dir():
        raise UserError(f"--save-reference {save_reference}: there is no such folder; make it, or name another")
    network_of_features = scoring.features_for(distributed.device(device), features, weights, resize)
    results = []
    for number, (where, folder) in enumerate(zip(what, places, strict=True)):
        began = time.perf_counter()
        found, reference = scoring.score(where, network_of_features, wanted)
        say("\n\n".join("\n".join(sheet(result)) for result in found))
        if folder:
            card.keep(folder / "scores.json", found)
            say(f"  kept in {folder / 'scores.json'}")
            if (picture := found[0].picture) is not None:
                where_to = folder / ("" if out else "samples") / f"nearest-{card.plain_name(found[0])}.png"
                grids.save_png(where_to, picture)
                say(f"  samples nearest to training images, and the same for held-out ones: {where_to}")
        say(f"  took {time.perf_counter() - began:.0f} s on {network_of_features.device}\n")
        results += found
        if save_reference and number == 0:
            measured.store(Path(save_reference), reference.measured)
            say(f"{len(reference.measured):,} vectors of {reference.measured.facts['name']} are in {save_reference}")
    if len(results) > 1:
        say("\n".join(table(results)))
    if words := scoring.hint(network_of_features):
        say(words)
    return results


def look(
    run: str,
    *,
    data: str | None = None,
    images: int = 4,
    positions: tuple[tuple[int, int], ...] | None = None,
    points: int = 4,
    step: int | None = None,
    network: Literal["ema", "live"] = "ema",
    seed: int = 0,
    label: str | None = None,
    film: bool = False,
    out: str | None = None,
    device: str | None = None,
    recipe: str | None = None,
) -> list[Path]:
    """Where a run's attention layers look, on samples and on real images; or the film of its training.

    Args:
        run: folder of the run.
        data: the real images, a folder or zip; by default the run's own.
        images: how many of each kind.
        positions: where to look from, y x of each in pixels: 12 20 5 5 are two. By default --points of each image.
        points: how many positions that differ in colour and place are chosen, where none are named.
        step: of which checkpoint; by default the last.
        network: the averaged generator (ema), or the one that was trained (live).
        seed: of the samples, and of which real images.
        label: a class, by name or number; by default all.
        film: make a GIF of the grids of samples over training instead.
        out: folder for the pictures; by default look in the run's.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from gander import distributed, looking

    the_run, place = Run.open(run), Path(out) if out else None
    if film:
        path, frames = looking.film(the_run, place)
        say(f"{frames} grids of samples in {path}")
        return [path]
    folder = looking.folder_for(the_run, place)
    asked: dict[str, Any] = {"data": data, "images": images, "positions": positions, "points": points, "step": step}
    asked |= {"network": network, "seed": seed, "label": label, "device": distributed.device(device), "recipe": recipe}
    sights, left_out = looking.look_at(the_run, **asked)
    paths = looking.draw(the_run, sights, folder)
    say("\n".join([*looking.table(sights), ""]))
    for path in paths:
        say(str(path))
    if left_out:
        say(left_out)
    return paths


def report(
    *runs: str,
    out: str | None = None,
    data: str | None = None,
    step: int | None = None,
    device: str | None = None,
    recipe: str | None = None,
) -> Path:
    """One HTML file of a run that needs no network and no other file; of several runs, side by side.

    Args:
        out: the file; by default report.html in the run's folder, of several runs ./report.html.
        data: the real images that the networks are shown, a folder or zip; by default the run's own.
        step: of which checkpoint the attention maps are; by default the last.
        device: as for train.
        recipe: the file of your own recipe, where a run was made by one.
    """
    from gander import distributed, explorer, recipes
    from gander import report as pages

    if not runs:
        raise UserError("gander report wants a run first: gander report RUN")
    studies = [Path(run) for run in runs if (Path(run) / "study.json").is_file()]
    if studies and len(runs) > 1:
        raise UserError(f"{studies[0]} is a study, which has a page of its own; name runs alone, as those in {studies[0]}/runs")
    if studies:
        if not (page := studies[0] / "study.html").is_file():
            raise UserError(f"{studies[0]} is a study without its page; gander compare makes it")
        say(f"{runs[0]} is a study; its page is {page}")
        return page
    found = [Run.open(run) for run in runs]
    path = Path(out) if out else found[0].folder / "report.html" if len(found) == 1 else Path("report.html")
    if path.suffix not in (".html", ".htm") or path.is_dir():
        raise UserError(f"--out {path} is no HTML file; name it like report.html")
    where, notes, defaults = distributed.device(device), [], []
    for the_run in found:
        named = str(the_run.described["recipe"])
        mine = recipe if named.endswith(".py") else None
        made, said = explorer.prepare(the_run, data=data, step=step, device=where, recipe=mine)
        for line in [*(f"made {file}" for file in made), *said]:
            say(line)
        notes.append(said)
        known = mine or (named if named in recipes.RECIPES else None)  # a file that a run folder names is never run
        defaults.append({name: knob.default for name, knob in recipes.knobs(recipes.load(known)).items()} if known else {})
    size = pages.write([the_run.folder for the_run in found], path, defaults=defaults, notes=notes)
    say(f"{path}, {size / 1e6:.1f} MB: open it in a browser")
    return path


def serve(
    run: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    step: int | None = None,
    network: Literal["ema", "live"] = "ema",
    standing: int = 8,
    device: str | None = None,
    recipe: str | None = None,
) -> None:
    """A live page of a run: samples, the way between them, and where attention looks. Ctrl-C ends it.

    Args:
        run: folder of the run.
        host: the address to listen at; 127.0.0.1 is for this machine alone, 0.0.0.0 for all who can reach it, without a password.
        port: of that address; 0 takes a free one.
        step: of which checkpoint; by default the last.
        network: the averaged generator (ema), or the one that was trained (live).
        standing: as for sample.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from gander import distributed, serving

    options: dict[str, Any] = {"step": step, "network": network, "standing": standing, "recipe": recipe}
    serving.serve(Run.open(run), host=host, port=port, device=distributed.device(device), **options)


def cp(recipe: str, file: str) -> None:
    """Copy a recipe to a file of your own: change it, then `gander train ./FILE`."""
    from gander import files, recipes

    target = Path(file)
    if target.suffix != ".py":
        raise UserError(f"{file} does not end in .py; name the copy like mine.py")
    if target.exists():
        raise UserError(f"{file} is there already; name another, or move it away")
    source = sys.modules[recipes.load(recipe).__module__].__file__
    assert source is not None
    files.write_atomic(target, Path(source).read_text(encoding="utf-8"))
    say(f"{recipe} is now yours in {target}: gander train ./{target} --data FOLDER")


def check(data: str, *, split: str | None = None) -> None:
    """What is in a folder, zip or data set: sizes, modes, classes, splits, broken and duplicate images.

    Args:
        data: as for train.
        split: which of its splits; by default train, where there are any.
    """
    from gander.data import check as look
    from gander.data import open_source

    say(str(look(open_source(data, split=split))))


def doctor() -> None:
    """What works on this machine, and what runs instead of what does not."""
    from gander.doctor import findings

    for line in findings():
        say(line)


VERBS: dict[str, Callable[..., Any]] = {
    "ls": ls,
    "show": show,
    "train": train,
    "sample": sample,
    "score": score,
    "look": look,
    "report": report,
    "serve": serve,
    "predict": predict,
    "lr": lr,
    "compare": compare,
    "check": check,
    "cp": cp,
    "doctor": doctor,
}
