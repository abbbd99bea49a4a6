"""Batch norms whose statistics are those of the global batch, however many processes share it.

    x̂ = (x - μ) / sqrt(σ² + eps),   μ and σ² per channel, over the batch and all positions (Ioffe and Szegedy 2015,
                                    https://arxiv.org/abs/1502.03167)

In eval mode μ and σ² are running averages, r ← (1 - momentum) · r + momentum · (of this batch), σ² unbiased there. That is
torch's momentum: TensorFlow's decay is 1 - momentum, its .99 is .01 here.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gander.distributed import all_reduce, processes, rank
from gander.errors import unknown

STATISTICS = ("global", "process")


class _Standardise(nn.Module):
    """x -> x̂ · weight + bias, with running averages: what plain and conditional batch norm share.

    One process: torch's own kernel. Several: each gives its (count, mean, variance), and these are put together exactly.
    Gradients flow through the statistics to the images of all processes, twice if need be. Where each process's loss is
    the mean over its share and gradients are averaged over the processes, they equal those of one process with the
    whole batch.
    """

    batch_statistics = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float, eps: float, statistics: str) -> None:
        super().__init__()
        if statistics not in STATISTICS:
            raise unknown("statistics", statistics, STATISTICS)
        self.channels, self.momentum, self.eps, self.statistics = channels, momentum, eps, statistics
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def standardise(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError(f"{type(self).__name__} of {self.channels} channels got an input of shape {tuple(x.shape)}")
        if self.training and self.statistics == "global" and processes() > 1:
            return self._over_processes(x, weight, bias)
        running = (self.running_mean, self.running_var)
        return F.batch_norm(x, *running, weight, bias, self.training, self.momentum, self.eps)

    def _over_processes(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        values = x.to(wide)
        var, mean = torch.var_mean(values, [d for d in range(x.ndim) if d != 1], correction=0)
        # Every process writes a row of zeros for each of the others, so that the sum is a gather: means and variances are put
        # together without the cancellation of sums of squares, in one message, and to the same bit everywhere.
        row = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
        others = torch.arange(processes(), device=x.device) != rank()
        table = all_reduce(torch.where(others[:, None], 0, row))
        means, variances, counts = table.split([self.channels, self.channels, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = torch.rsqrt(var + self.eps)
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale
        if bias is not None:
            shift = shift + bias
        shape = [-1] + [1] * (x.ndim - 2)
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, momentum={self.momentum}, eps={self.eps}, statistics={self.statistics!r}"


class BatchNorm(_Standardise):
    """y = γ · x̂ + β, γ and β per channel, born one and zero.

    Args:
        channels: of the images (b, c, h, w) or vectors (b, c) to come.
        gain: whether there is a γ. Without it, bias only, as in the article's SAGAN.
        bias: whether there is a β.
        momentum: the share of the newest batch in the running averages, as torch counts it (TensorFlow's .99 is .01).
        eps: added to the variance.
        statistics: `global`, over the batches of all processes; or `process`, each its own, as the official SAGAN has it
            (running averages then differ between processes).

    Raises:
        ValueError: in training mode where a channel has one value only, and for another number of channels.
        UserError: for other `statistics`.
    """

    def __init__(
        self,
        channels: int,
        *,
        gain: bool = True,
        bias: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        statistics: str = "global",
    ) -> None:
        super().__init__(channels, momentum, eps, statistics)
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.standardise(x, self.weight, self.bias)


class ConditionalBatchNorm(_Standardise):
    """y = γ[label] · x̂ + β[label]: a row of each table a class, born ones and zeros. 2 · classes · channels parameters.

    Dumoulin et al. 2017, https://arxiv.org/abs/1610.07629; de Vries et al. 2017, https://arxiv.org/abs/1707.00683. The
    default momentum is that of the official SAGAN (its decay is .999).

    Args:
        channels: of the images (b, c, h, w) or vectors (b, c) to come.
        num_classes: labels are 0 ... num_classes - 1.
        momentum: as for `BatchNorm`, as are `eps` and `statistics`.

    Raises:
        ValueError: in training mode where a channel has one value only, and for another number of channels.
        IndexError: on the CPU, for a label that is no class.
        UserError: for other `statistics`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        momentum: float = 0.001,
        eps: float = 1e-5,
        statistics: str = "global",
    ) -> None:
        super().__init__(channels, momentum, eps, statistics)
        # parameters, not nn.Embedding: spectral_norm normalises embeddings, and must not normalise these
        self.gain = nn.Parameter(torch.ones(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Float[Tensor, "b c *size"], labels: Int[Tensor, " b"]) -> Float[Tensor, "b c *size"]:
        shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
        gain, bias = (F.embedding(labels, table).to(x.dtype).view(shape) for table in (self.gain, self.bias))
        return torch.addcmul(bias, self.standardise(x), gain)


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether an output of `module` depends on the other images of its batch: then real and fake must pass it apart.

    True where a layer is a batch norm of ours or torch's, or says so itself by an attribute `batch_statistics = True`.
    Instance, group and layer norm do not count.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    return any(isinstance(layer, batch_norm) or getattr(layer, "batch_statistics", False) for layer in module.modules())
