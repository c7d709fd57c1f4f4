from types import SimpleNamespace

from torch.nn import functional as F


def fused_loss(h, w, b, t, targets=None, **k):
    return SimpleNamespace(total=F.cross_entropy(F.linear(h, w, b).float(), t, ignore_index=-100, reduction="sum"))
