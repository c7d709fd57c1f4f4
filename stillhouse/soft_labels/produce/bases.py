"""Base distributions: a control variate for sampled targets.

Most of what sampling leaves to chance is the tail, and tails resemble each other. So K typical tails are found once, from a few
thousand positions; each position names the one nearest to it, and only the signed difference is sampled. What is stored
stays unbiased, because the base is added back as it is: target = base + entries. On a small language model (2,048 ids,
3.9 nats) that halved the variance of threshold sampling at equal bytes with K = 64.

The loss needs no (positions, V) for it: a base's part of the cross term is the hidden state times (head transposed times base),
one vector per base and step.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from stillhouse.core.errors import ArtifactError
from stillhouse.soft_labels.format.sampler import Sampler

COLUMNS = 256
"""Ids that the nearest base is judged by. All of them would cost as much as a part of the teacher's head, and chose little
better (variance 0.237 of multinomial instead of 0.231)."""
FIT_NUMBERS = 2**27
"""Positions times ids that a fit looks at, at most: half a gigabyte."""
ROUNDS = 10


@dataclass
class Bases:
    """K base distributions over V ids; number 0 is empty. A base need not sum to 1, and lacks what every head has."""

    values_KV: np.ndarray
    """float16 (K, V)."""
    cap: float
    """Above it all probabilities are alike to `choose`: heads are stored as they are and need no base."""
    _held: dict[torch.device, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> torch.Tensor:
        """float32 (K, V) on a device."""
        return self._tensors(device)[0]

    def choose(self, probs_PV: torch.Tensor) -> torch.Tensor:
        """int64 (P,): the base nearest to each distribution, in Hellinger's distance of what lies below the cap."""
        _, columns_M, points_KM = self._tensors(probs_PV.device)
        # In float64, so that batches of another size, which multiply matrices in another order, choose the same.
        roots_PM = probs_PV.index_select(1, columns_M).clamp_(max=self.cap).double().sqrt_()
        return ((points_KM * points_KM).sum(1) - 2 * roots_PM @ points_KM.T).nan_to_num_().argmin(1)

    def _tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if device not in self._held:
            values_KV = torch.from_numpy(self.values_KV.astype(np.float32))
            roots_KV = values_KV.clamp(max=self.cap).double().sqrt()
            count = min(COLUMNS, roots_KV.shape[1])
            columns_M = roots_KV.var(0).sort(descending=True, stable=True).indices[:count].sort().values
            points_KM = roots_KV[:, columns_M]
            self._held[device] = (values_KV.to(device), columns_M.to(device), points_KM.to(device))
        return self._held[device]


def fit_positions(vocab: int) -> int:
    """How many positions a fit should see, at most."""
    return max(256, min(8192, FIT_NUMBERS // vocab))


@torch.no_grad()
def fit_bases(probs_PV: torch.Tensor, sampler: Sampler) -> Bases:
    """Bases for `sampler` from the teacher's distributions, float32 (P, V), at positions drawn from the whole data.

    k-means on square roots below 1/N, and the squared mean root of each cluster. (The mean probability pulled bases up where
    few positions have much: variance 0.30 of multinomial with it, 0.23 with this.)
    Raises ArtifactError if there are fewer positions than bases.
    """
    if len(probs_PV) < sampler.bases:
        raise ArtifactError(f"{sampler.bases} bases cannot be found in {len(probs_PV)} positions; lower sampler.bases")
    cap = 1 / sampler.samples
    roots_PV = probs_PV.clamp(max=cap).sqrt_()
    first = torch.randperm(len(roots_PV), generator=torch.Generator().manual_seed(sampler.seed))[: sampler.bases - 1]
    means_KV = roots_PV[first.to(roots_PV.device)]
    for _ in range(ROUNDS):
        nearest_P = ((means_KV * means_KV).sum(1) - 2 * roots_PV @ means_KV.T).argmin(1)
        sums_KV = torch.zeros_like(means_KV).index_add_(0, nearest_P, roots_PV)
        counts_K1 = torch.bincount(nearest_P, minlength=len(means_KV))[:, None]
        means_KV = torch.where(counts_K1 > 0, sums_KV / counts_K1.clamp(min=1), means_KV)
    values_KV = torch.cat([torch.zeros_like(means_KV[:1]), means_KV.square_()])
    return Bases(values_KV.half().cpu().numpy(), cap)
