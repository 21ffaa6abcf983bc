"""Several processes train one model, as `torchrun` or `accelerate launch` starts them: who writes, who tells whom.

Every process holds the whole model and the whole batch. What is cheap and mixes entities (generators, contrasts) each
computes for itself on the whole batch, so it is the same everywhere, but for what dropout leaves of what L_ID reads;
the pass through the LLM, which is dear, is divided by rows (`model.JointModel.forward`). The first process alone writes
files. Whatever decides about a later step, tables above all, is made by the first process and told to the others, for
two GPUs may round differently.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import Tensor

from ed2rec.environment import launched
from ed2rec.errors import ConfigError, Ed2Error

T = TypeVar("T")


class Processes:
    """The processes of this training; `rank` is this one's number, 0 the first, of `count`. One process is the rule.

    device   what training.device says. Starting them needs to know whether they compute on CPUs. ConfigError for one
             GPU named for several processes, for more processes than this machine has GPUs, and for another GPU than
             the first for one process: `transformers.Trainer` takes that.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.count = launched()
        gpu = device.partition(":")[2]
        if self.count > 1 and gpu:
            raise ConfigError(
                f"training.device={device} for {self.count} processes: leave it auto, each takes one of its own"
            )
        if gpu.strip("0"):
            raise ConfigError(f"training.device={device}: this training takes the first GPU that it sees; leave it "
                              f"auto and set CUDA_VISIBLE_DEVICES={gpu} before the command")  # fmt: skip
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", self.count)), torch.cuda.device_count()
        if self.count > 1 and device != "cpu" and 0 < gpus < here:
            raise ConfigError(f"{here} processes on a machine with {gpus} GPU{'s' * (gpus > 1)}: start as many as that "
                              "or fewer, or compute on the processor: --set training.device=cpu")  # fmt: skip
        if self.count > 1:
            PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def tell(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; so are the errors of a user."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = make()
            except Ed2Error as error:
                told[1] = error
        broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def same(self, tensor: Tensor) -> Tensor:
        """The first process's tensor."""
        return tensor if self.count == 1 else broadcast(tensor)

    def mean(self, values: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
        """Means over the processes, weighted; one of weight 0 need not have any values."""
        if self.count == 1:
            return dict(values)
        given = [(row, share) for row, share in gather_object([(dict(values), weight)]) if share]
        total = sum(share for _, share in given)
        return {name: sum(row[name] * share for row, share in given) / total for name in given[0][0]}

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()
