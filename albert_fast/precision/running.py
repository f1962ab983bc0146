"""Running a captured program node by node, so that what flows between its ops can be looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter
from torch.utils._pytree import tree_unflatten

from albert_fast.batch import Batch


class GraphRunner(Interpreter):
    """An fx interpreter of a program; subclasses override ``run_node``."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module)
        self.program = program
        self.device = next(iter(program.state_dict.values())).device

    def run_batch(self, batch: Batch) -> dict[str, Tensor]:
        """The program's outputs by name; weights and batch meet on the device of the weights.

        A program that answers at asked positions alone is asked what the batch asks.
        """
        batch = batch.to(self.device).to(torch.int64)
        given = iter((*batch.tensors(), batch.positions()))  # most programs take three of them
        values: list[Any] = []
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                values.append(next(given))
            else:
                values.append(self.program.state_dict.get(spec.target, self.program.constants.get(spec.target)))
        with torch.inference_mode():
            outputs = self.run(*values)
        out_spec = self.program.call_spec.out_spec
        assert out_spec is not None
        named: dict[str, Tensor] = tree_unflatten(list(outputs), out_spec)
        return named
