"""What runs inside: the names of all operators, forward and backward, by what torch dispatches."""

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.name())
        return function(*args, **(kwargs or {}))

    @property
    def convolutions(self):
        return {name for name in self.seen if "conv" in name}
