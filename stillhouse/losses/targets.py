"""Names that objectives share."""

from typing import Literal

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]


class SparseTargets: ...


class TeacherHead: ...
