import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gander.distributed import all_reduce, processes, rank
from gander.errors import unknown
from gander.layers.norms import STATISTICS


class ScalarNorm(nn.Module):
    """y = (x - μ) / sqrt(σ² + eps) · weight + bias: μ and σ are two numbers, weight and bias of each channel.

    They are those of the whole batch, over images, channels and positions, as in LocAtE (v1.2.3 on, where eps is 0 and σ the
    unbiased one), in training and in eval mode; or of each image, `per_sample`: layer norm over channels and positions.

    Shapes: (b, c, h, w) -> the same; `scale` (b, c), where given, stands in the place of weight: LocAtE's modulation. Statistics
    are computed in float32 at least.

    Over several processes those of the batch are of the global one in training mode, exactly, with gradients to the images of
    all; in eval mode, where one process may be alone, of the process.

    Args:
        channels: of the images to come.
        per_sample: statistics of each image by itself.
        gain: whether there is a weight, born one; without it only `scale` scales.
        eps: added to the variance. With 0, images that are all one number become NaN.
        statistics: `global`, or `process`, each its own in training mode too.

    Raises:
        UserError: for other `statistics`.
    """

    running_mean = None  # as torch's norms say that they keep no averages
    momentum = None

    def __init__(
        self, channels: int, *, per_sample: bool = False, gain: bool = True, eps: float = 1e-5, statistics: str = "global"
    ) -> None:
        super().__init__()
        if statistics not in STATISTICS:
            raise unknown("statistics", statistics, STATISTICS)
        self.eps, self.statistics, self.batch_statistics = eps, statistics, not per_sample
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"] | None = None) -> Float[Tensor, "b c h w"]:
        if not self.batch_statistics:  # one group: torch's kernel for group norm, and a tenth of the time of var_mean
            if scale is None:
                return F.group_norm(x, 1, self.weight, self.bias, self.eps).to(x.dtype)
            return torch.addcmul(self.bias[:, None, None], F.group_norm(x, 1, eps=self.eps), scale[..., None, None]).to(x.dtype)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = self._of_the_batch(values)
        factor = torch.rsqrt(var + self.eps)
        gain = self.weight if scale is None else scale
        factor = factor if gain is None else (factor * gain)[..., None, None]
        return torch.addcmul(self.bias[:, None, None] - mean * factor, values, factor).to(x.dtype)

    def _of_the_batch(self, values: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        if not (self.training and self.statistics == "global" and processes() > 1):
            var, mean = torch.var_mean(values)
            return mean, var
        var, mean = torch.var_mean(values, correction=0)
        row = torch.stack([mean, var, mean.new_tensor(values.numel())])
        others = torch.arange(processes(), device=values.device) != rank()
        means, variances, counts = all_reduce(torch.where(others[:, None], 0, row)).unbind(1)  # of each process
        count = counts.sum()
        mean = (means * counts).sum() / count
        return mean, ((variances + (means - mean).square()) * counts).sum() / (count - 1)

    def extra_repr(self) -> str:
        return f"per_sample={not self.batch_statistics}, eps={self.eps}, statistics={self.statistics!r}"
