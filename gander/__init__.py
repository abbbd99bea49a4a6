"""gander: attention in image models.

`import gander` costs next to nothing: rooms are loaded when they are entered.

    from gander.attention import SelfAttention      # one layer for a model of your own
    gander.train("sagan", data="photos/")           # what the command line can do, Python can
"""

import importlib

__version__ = "0.1.0.dev0"


def __getattr__(name: str):
    if name.startswith("__"):  # modules ask for __path__ and the like: never a reason to load torch
        raise AttributeError(name)
    verbs = importlib.import_module("gander.verbs")
    try:
        return verbs.VERBS[name]
    except KeyError:
        raise AttributeError(f"module 'gander' has no attribute {name!r}") from None
