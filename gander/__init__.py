"""gander: attention in image models.

    from gander.attention import SelfAttention      # one layer for a model of your own
    from gander import verbs                        # what the command line can do, Python can
    verbs.train("sagan", data="photos/")

`import gander` costs next to nothing: rooms are loaded when they are entered.
"""

__version__ = "0.1.0.dev0"
