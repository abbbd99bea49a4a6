"""gander: attention in image models.

    from gander.attention import SelfAttention      # one layer for a model of your own
    from gander import verbs                        # what the command line can do, Python can
    verbs.train("sagan", data="photos/")

`import gander` costs next to nothing: rooms are loaded when they are entered.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0.dev0"


def __getattr__(name: str):
    """gander.verbs, gander.attention: a room is loaded when it is first named."""
    if not name.startswith("_"):
        try:
            return _import_module(f"gander.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"gander.{name}":
                raise
    raise AttributeError(f"module 'gander' has no attribute {name!r}")
