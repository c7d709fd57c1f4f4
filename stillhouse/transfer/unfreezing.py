"""From one task to the next: a frozen body, or one that thaws from above."""

from dataclasses import dataclass

from torch import nn

from stillhouse.core.errors import ParamsError
from stillhouse.training.optim.optimizers import embedding_ids, layers_below_head, num_layers


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of the weights that learn, from the head (with what stands between it and the layers) down to the embeddings."""
    embeddings, depth = embedding_ids(model), num_layers(model)
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(layers_below_head(name, depth, id(parameter) in embeddings), []).append(name)
    return [groups[distance] for distance in sorted(groups)]


@dataclass(frozen=True)
class GradualUnfreezing:
    """The head learns from the start, and every `every` steps one layer group more, from the top.

    Howard & Ruder 2018, arXiv:1801.06146, sec. 3.3, where it is one group an epoch. Gradients of what is still frozen are
    computed and thrown away: a weight that asks for no gradient now and for one later is unknown to DDP. What learns is a
    function of the step alone, and a weight that has not learned yet has no optimiser state.
    """

    groups: list[list[str]]
    every: int

    @classmethod
    def of(cls, model: nn.Module, every: int, steps: int, block: str = "finetune") -> "GradualUnfreezing":
        """Raises ParamsError if a group would never learn."""
        groups = layer_groups(model)
        last = every * (len(groups) - 1)
        if last >= steps:
            most = (steps - 1) // (len(groups) - 1)
            advice = f"lower it to at most {most}" if most else "take more steps"
            raise ParamsError(
                f"{block}.unfreeze_every is {every}: the lowest of the {len(groups)} layer groups of {type(model).__name__} "
                f"begins to learn after step {last}, and training.steps is {steps}; {advice}"
            )
        return cls(groups, every)

    def __call__(self, model: nn.Module, step: int) -> None:
        """Only what learns after `step` steps keeps its gradient."""
        frozen = {name for group in self.groups[1 + step // self.every :] for name in group}
        if frozen:
            for name, parameter in model.named_parameters():
                if name in frozen:
                    parameter.grad = None
