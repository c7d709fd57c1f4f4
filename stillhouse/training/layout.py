"""Which part each rank has: of the rows, of the layers, of the matrices inside a layer."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stillhouse.core.errors import TopologyError
from stillhouse.training.config import ParallelParams
from stillhouse.training.distributed import Ranks


@dataclass(frozen=True)
class Layout:
    """This rank in a grid of stages x rows x tensors; ranks that share the matrices of a layer are neighbours."""

    num_stages: int
    num_shares: int
    """Ranks that share the rows of a batch."""
    num_tensors: int
    stage: int
    share: int
    tensor: int
    mesh: DeviceMesh | None
    """Dimensions `stage`, `share` and `tensor`; None for one rank."""

    @classmethod
    def of(cls, params: ParallelParams, ranks: Ranks) -> "Layout":
        """Every rank must call this. Raises TopologyError if the ranks do not divide."""
        shares = num_shares(params, ranks.world)
        shape = (params.pipeline, shares, params.tensor)
        stage, rest = divmod(ranks.rank, shares * params.tensor)
        names = ("stage", "share", "tensor")
        mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=names) if ranks.world > 1 else None
        if mesh is not None and shares > 1 and params.tensor > 1:
            # A sum over both dimensions is then one call, and the same on every rank to the last digit.
            mesh["share", "tensor"]._flatten()
        return cls(*shape, stage, *divmod(rest, params.tensor), mesh)

    def along(self, name: str) -> DeviceMesh:
        """The ranks that differ from this one only in `name`."""
        assert self.mesh is not None
        return self.mesh[name]

    @property
    def speaks(self) -> bool:
        """Whether the losses of this rank's rows are counted here: of the ranks that compute the same, one speaks."""
        return self.stage == self.num_stages - 1 and self.tensor == 0


def num_shares(params: ParallelParams, world: int) -> int:
    """Ranks that share the rows of a batch. Raises TopologyError if the ranks do not divide."""
    each = params.tensor * params.pipeline
    if world % each:
        raise TopologyError(
            f"{world} ranks do not divide by training.parallel.tensor x pipeline, {params.tensor} x {params.pipeline}; "
            f"start a multiple of {each} ranks, or choose divisors of {world}"
        )
    return world // each
