"""What is looked at before a checkpoint's `state.pt` is believed: whoever writes it writes its hash too."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gander.errors import UserError
from gander.optimizers import AdaBound

SCALARS = {"step", "mu_product"}  # of what Adam and its kin keep for a tensor; the rest has its shape


def check_archive(file: Path) -> None:
    """ValueError unless it is what `torch.save` writes: a zip of unpacked records, which take no more memory than the file."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("it is packed")
    if sum(record.file_size for record in records) > file.stat().st_size:
        raise ValueError("it states more than it holds")


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """`optimizer.load_state_dict(saved)`, but for its switches (fused, foreach, ...), which are this machine's.

    UserError where `saved` is not a state of such an optimiser: it would load, and the next step would trip over it.
    """
    try:
        groups = []
        for mine, theirs in zip(optimizer.state_dict()["param_groups"], saved["param_groups"], strict=True):
            numbers = {name: value for name, value in mine.items() if name != "params" and _is_number(value)}
            for name, value in numbers.items():
                if not _is_number(theirs[name]) or isinstance(theirs[name], tuple | list) != isinstance(value, tuple | list):
                    raise ValueError(f"its {name} is not like {value}")
            groups.append({**theirs, **{name: value for name, value in mine.items() if name not in numbers}})
        if isinstance(optimizer, torch.optim.Adam | torch.optim.NAdam | AdaBound):
            names = ["step", "exp_avg", "exp_avg_sq"]
            names += ["mu_product"] if isinstance(optimizer, torch.optim.NAdam) else []
            names += ["max_exp_avg_sq"] if optimizer.defaults.get("amsbound") else []
            _check_moments([parameter for group in optimizer.param_groups for parameter in group["params"]], saved["state"], names)
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"the checkpoint's state of {type(optimizer).__name__} is not one over this network ({type(error).__name__}: {error}); "
            "delete that checkpoint to take the one before it"
        ) from None


def _is_number(value: Any) -> bool:
    """A finite number, or a pair of them."""
    if isinstance(value, tuple | list):
        return len(value) == 2 and all(map(_is_number, value))
    return type(value) in (int, float) and math.isfinite(value)


def _check_moments(parameters: list[Tensor], state: Mapping[int, Mapping[str, Any]], names: Sequence[str]) -> None:
    """ValueError where the moments of Adam and its kin are not tensors like these parameters."""
    for i, kept in state.items():
        for name in names:
            value, shape = kept[name], () if name in SCALARS else parameters[i].shape
            if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or not value.is_floating_point():
                raise ValueError(f"{name} {i} is no tensor of floats")
            if value.shape != shape:
                raise ValueError(f"{name} {i} is {tuple(value.shape)}, not {tuple(shape)}")
        for name in SCALARS & set(names):
            if not 0 <= kept[name] < math.inf:
                raise ValueError(f"{name} {i} is {float(kept[name])}")
