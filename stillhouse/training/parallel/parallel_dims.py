"""Which part each rank has: of the rows, of the layers, of the matrices inside a layer."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stillhouse.core.errors import TopologyError
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.config import ParallelParams


@dataclass(frozen=True)
class ParallelDims:
    """This rank in a grid of pipeline stages x rows x tensors; ranks that divide the matrices of a layer are neighbours."""

    pp_size: int
    """Pipeline stages: ranks that divide the layers."""
    dp_size: int
    """Ranks that divide the rows of a batch."""
    tp_size: int
    """Ranks that divide the matrices inside a layer."""
    pp_rank: int
    dp_rank: int
    tp_rank: int
    mesh: DeviceMesh | None
    """Dimensions `pp`, `dp` and `tp`; None for one rank."""

    @classmethod
    def of(cls, params: ParallelParams, ranks: Ranks) -> "ParallelDims":
        """Every rank must call this. Raises TopologyError if the ranks do not divide."""
        shape = (params.pipeline, data_parallel_size(params, ranks.world), params.tensor)
        pp_rank, rest = divmod(ranks.rank, shape[1] * params.tensor)
        names = ("pp", "dp", "tp")
        mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=names) if ranks.world > 1 else None
        if mesh is not None and shape[1] > 1 and params.tensor > 1:
            # A sum over both dimensions is then one call, and the same on every rank to the last digit.
            mesh["dp", "tp"]._flatten()
        return cls(*shape, pp_rank, *divmod(rest, params.tensor), mesh)

    def along(self, name: str) -> DeviceMesh:
        """The ranks that differ from this one only in `name`."""
        assert self.mesh is not None
        return self.mesh[name]

    @property
    def counts_losses(self) -> bool:
        """Whether the losses of this rank's rows are counted here: of the ranks that compute the same, one counts them."""
        return self.pp_rank == self.pp_size - 1 and self.tp_rank == 0


def data_parallel_size(params: ParallelParams, world: int) -> int:
    """Ranks that divide the rows of a batch. Raises TopologyError if the ranks do not divide."""
    each = params.tensor * params.pipeline
    if world % each:
        raise TopologyError(
            f"{world} ranks do not divide by training.parallel.tensor x pipeline, {params.tensor} x {params.pipeline}; "
            f"start a multiple of {each} ranks, or choose divisors of {world}"
        )
    return world // each
