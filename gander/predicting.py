"""From a classifier's run and a folder of images to a table of labels and probabilities: load, ask, write."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gander.errors import UserError, shown
from gander.run import Run

if TYPE_CHECKING:
    import torch

    from gander.data import Dataset, Source

say = print

FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins so for one, and computes it


def predict(
    run: str,
    data: str,
    *,
    out: str | None = None,
    split: str | None = None,
    step: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    allow_broken: bool = False,
    recipe: str | None = None,
) -> Path:
    """Labels and probabilities that a classifier gives images, as a table (CSV); its accuracy, where their folders are classes.

    A row an image: file, label (where a folder gives one that the run knows), predicted, probability, and p:CLASS of each class.

    Args:
        out: a .csv file; by default predictions.csv in the run, where its report looks for the worst mistakes.
        split: which of the data's splits; by default train, where there are any.
        step: of which checkpoint; by default the last.
        device: as for train.
        precision: as for train; by default that of the run, in which it was examined.
        allow_broken: go on with more than 1 % broken images.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from gander import distributed, files
    from gander.data import open_source, prepare
    from gander.train.precision import Precision, resolve

    the_run = Run.open(run)
    path = Path(out) if out else the_run.folder / "predictions.csv"
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise UserError(f"--out {path} is no CSV file; name it like predictions.csv")
    where = distributed.device(device)
    kept = the_run.described.get("precision")
    runs_in = Precision(resolve(precision or (str(kept) if kept else None), where), where, ["classifier"])
    source = open_source(data, split=split)
    classifier = load_classifier(the_run, step=step, device=where, recipe=recipe)
    dataset = prepare(source, classifier.side, channels=classifier.channels, allow_broken=allow_broken)
    shares, called = ask(classifier, dataset, runs_in)
    labels, notes = known_labels(classifier, dataset)
    files.write_atomic(path, table(classifier.classes, dataset.names, labels, called, shares))
    say(f"{len(dataset):,} images as the classifier of step {classifier.step:,} calls them: {path}")
    for note in notes:
        say(f"note: {note}")
    right = [classifier.classes[k] == label for k, label in zip(called, labels, strict=True) if label]
    if right:
        say(f"top-1 accuracy {sum(right) / len(right):.4f}: {sum(right):,} of {len(right):,} labelled images")
        if _trained_on(the_run, source, dataset):
            say("note: the run was trained on these images, or on most of them: on others it may be right less often")
    return path


class Classifier(NamedTuple):
    """The classifier of a run, and the images that it takes."""

    network: Any  # images (b, channels, resolution, resolution) in [-1, 1] -> logits (b, k); in eval mode
    step: int
    weights: Path
    classes: tuple[str, ...]
    channels: int
    resolution: int
    side: int  # of the squares whose middle those images are


def load_classifier(
    run: Run, *, step: int | None = None, device: "torch.device | str" = "cpu", recipe: str | None = None
) -> Classifier:
    """The classifier of a run's checkpoint, as it is examined. UserError where the run has none, or its files do not fit."""
    import torch

    from gander import recipes
    from gander.train import checkpoint

    found, complaints = checkpoint.find(run.checkpoints, step)
    with torch.device("meta"):  # knobs may ask for any size: shapes without numbers first, until they are those of the file
        trial = recipes.rebuild(run, recipe).networks
    if "classifier" not in trial:
        raise UserError(f"{run.folder} has no classifier to ask; it has {', '.join(trial)}")
    file = found / "classifier.safetensors"
    checkpoint.check_network(file, trial["classifier"])
    experiment = recipes.rebuild(run, recipe)
    network = experiment.networks["classifier"].to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    checkpoint.load_network(file, network)
    for complaint in complaints:
        say(f"{complaint}; the one before it is taken")
    channels, side = run.described["facts"]["channels"], experiment.resolution
    with torch.no_grad():
        k = network(torch.zeros(1, channels, side, side, device=device)).shape[1]
    classes = tuple(run.described.get("classes", [])) or tuple(map(str, range(k)))
    if len(classes) != k:
        raise UserError(f"{run.folder}/run.json names {len(classes)} classes, and the classifier has {k}; restore it from a copy")
    return Classifier(network, int(found.name), file, classes, channels, side, experiment.side or side)


def ask(classifier: Classifier, dataset: "Dataset", precision: Any) -> tuple[list[list[float]], list[int]]:
    """The probability of each class for each image (n, k), and the class that each is called, as an exam has it.

    UserError where a probability is no number.
    """
    import torch
    from tqdm import tqdm

    from gander.data.batches import in_order
    from gander.data.crops import centre_crop

    shares: list[list[float]] = []
    called: list[int] = []
    hidden = not sys.stderr.isatty()
    with torch.no_grad(), tqdm(total=len(dataset), desc="asking", unit=" images", disable=hidden, leave=False) as bar:
        for squares, _ in in_order(dataset.images, dataset.labels, precision.device):
            with precision.autocast():
                logits = classifier.network(centre_crop(squares, classifier.resolution)).float()
            if not logits.isfinite().all():
                raise UserError(f"the classifier of step {classifier.step} answers with NaN or infinity; take an earlier --step")
            # of equal ones, which bf16 has, the one that the exam takes
            called += logits.topk(min(5, logits.shape[1]), 1).indices[:, 0].tolist()
            shares += logits.cpu().double().softmax(1).tolist()
            bar.update(len(squares))
    return shares, called


def known_labels(classifier: Classifier, dataset: "Dataset") -> tuple[list[str], list[str]]:
    """The class of each image's folder, empty where that is none of the run's; and what there is to say of that."""
    of_folders = dataset.classes and [dataset.classes[label] for label in dataset.labels.tolist()]
    known = set(classifier.classes)
    labels = [name if name in known else "" for name in of_folders] or [""] * len(dataset)
    strange = sorted(set(of_folders) - known)
    if not strange:
        return labels, []
    few = ", ".join(map(shown, strange[:5])) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
    return labels, [f"the run does not know the classes {few}; the {labels.count(''):,} images there count as unlabelled"]


def table(
    classes: Sequence[str], names: Sequence[str], labels: Sequence[str], called: Sequence[int], shares: Sequence[Sequence[float]]
) -> str:
    """The rows as CSV: file, label (where there are any), predicted, probability, p:<class> of each class.

    A cell is one line of characters that can be printed. No cell is a formula: ./ stands before a file that would begin as one,
    which is the same file, and ' before a class.
    """
    text, labelled = io.StringIO(), any(labels)
    write = csv.writer(text, lineterminator="\n").writerow
    write(["file", *(["label"] if labelled else []), "predicted", "probability", *(shown(f"p:{name}") for name in classes)])
    for name, label, k, row in zip(names, labels, called, shares, strict=True):
        known = [_cell(label, "'")] if labelled else []
        write([_cell(name, "./"), *known, _cell(classes[k], "'"), *(f"{share:.6g}" for share in (row[k], *row))])
    return text.getvalue()


def _cell(words: str, mark: str) -> str:
    words = shown(words)
    return mark + words if words.startswith(FORMULA) else words


def _trained_on(run: Run, source: "Source", dataset: "Dataset") -> bool:
    """Whether these are the images of the run, or those that it was given and set a tenth of aside."""
    trained = run.described.get("data")
    if not isinstance(trained, dict):
        return False
    same_place = Path(str(trained.get("where"))).absolute() == Path(source.where).absolute()
    return dataset.fingerprint == trained.get("fingerprint") or (same_place and source.split == trained.get("split"))
