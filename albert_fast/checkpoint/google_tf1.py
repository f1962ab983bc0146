"""Checkpoints of Google's ALBERT code: ``albert_config.json`` beside ``model.ckpt-best.index`` and its data files.

TensorFlow reads the variables; nothing here interprets its format. TF-Hub's layout (``variables/``, ``assets/``, names
under ``module/``) is the same thing with other folders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast._optional import require
from albert_fast.checkpoint import names, safety
from albert_fast.config import CONFIG_NAME, AlbertConfig
from albert_fast.errors import CheckpointError

CONFIG_NAMES = ("albert_config.json", "assets/albert_config.json", CONFIG_NAME)
PREFERRED = "model.ckpt-best"

# Google calls the tanh form "gelu"; Hugging Face calls it "gelu_new" and keeps "gelu" for the erf form.
ACTIVATIONS = {"gelu": "gelu_new"}


def prefixes(folder: Path) -> list[Path]:
    """Checkpoint prefixes in the folder: ``model.ckpt-best`` first, then the others, latest training step first."""
    found = [path.with_suffix("") for pattern in ("*.index", "variables/*.index") for path in folder.glob(pattern)]

    def rank(prefix: Path) -> tuple[bool, int, str]:
        step = re.search(r"-(\d+)$", prefix.name)
        return (prefix.name != PREFERRED, -int(step.group(1)) if step else 0, prefix.name)

    return sorted(found, key=rank)


def recognise(folder: Path) -> bool:
    """Whether the folder holds a TF1 checkpoint."""
    return bool(prefixes(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of Google's config under Hugging Face's field names.

    Raises:
        CheckpointError: no config, or an ALBERT variant whose arithmetic is another one.
    """
    path = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has a TensorFlow checkpoint but none of {', '.join(CONFIG_NAMES)}; put the config of these "
            "weights beside them"
        )
    values = safety.read_json(path)
    if values.get("model_type", "albert") != "albert":
        raise CheckpointError(
            f"{path} is the config of another architecture, {values['model_type']!r}; expected an ALBERT"
        )
    if values.get("ln_type", "postln") != "postln":
        raise CheckpointError(
            f"{path} says ln_type {values['ln_type']!r}, expected 'postln', the only order that ALBERT has; this model "
            "would load and compute something else, so use another checkpoint"
        )
    if path.name != CONFIG_NAME:
        act = values.get("hidden_act", "gelu")
        values["hidden_act"] = ACTIVATIONS.get(act, act) if isinstance(act, str) else act
    return values


def read_tensors(folder: Path, config: AlbertConfig) -> dict[str, Tensor]:
    """All variables under their present names; optimizer slots are skipped.

    Raises:
        CheckpointError: missing or damaged data files, unknown variables, or SQuAD v2 heads, which have no counterpart.
        MissingDependencyError: TensorFlow is not installed.
    """
    tensorflow = require("tensorflow", extra="tensorflow", purpose="read a TensorFlow checkpoint")
    prefix = prefixes(folder)[0]
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    if not data:
        raise CheckpointError(f"{prefix}.index has no {prefix.name}.data-* beside it; fetch the data files as well")
    failures = (tensorflow.errors.OpError, RuntimeError, ValueError, UnicodeDecodeError)
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        wanted = {v: shape for v, shape in shapes.items() if not names.TF1_SKIPPED.fullmatch(v)}
        _refuse_squad2(wanted, prefix)
        claims = [(v, tuple(shape), dtypes[v].size or 1) for v, shape in wanted.items()]
        safety.check_held(claims, prefix, held_bytes=sum(path.stat().st_size for path in data))
        rows = [_row(v, reader) for v in sorted(wanted)]
    except CheckpointError:
        raise
    except failures as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{prefix} is cut off or no TensorFlow checkpoint: {reason}. Fetch it again") from error
    unknown = [old for new, old, _ in rows if not new]
    if unknown:
        raise CheckpointError(
            f"{prefix} holds variables that no ALBERT has: {', '.join(unknown)}. Expected the names of Google's ALBERT "
            "code; check that it is one"
        )
    return _with_mapping(names.collect(rows), config)


def _row(variable: str, reader: Any) -> tuple[str, str, Tensor]:
    """(new name, old name, tensor); the new name is empty for an unknown variable, which is not read."""
    known = names.from_tf1(variable)
    if known is None:
        return "", variable, torch.empty(0)
    name, transposed = known
    tensor = torch.from_numpy(reader.get_tensor(variable))
    return name, variable, tensor.T.contiguous() if transposed else tensor


def _refuse_squad2(variables: dict[str, Any], prefix: Path) -> None:
    found = [v for v in variables if names.TF1_SQUAD2.fullmatch(v.removeprefix("module/"))]
    if found:
        raise CheckpointError(
            f"{prefix} was fine-tuned on SQuAD 2.0 by Google's code: {', '.join(sorted(found))}. Its end logits depend "
            "on the start and it has an answerability head; AlbertForQuestionAnswering has no counterpart for these. "
            "Use a SQuAD 1.1 checkpoint, or fine-tune AlbertForQuestionAnswering"
        )


def _with_mapping(tensors: dict[str, Tensor], config: AlbertConfig) -> dict[str, Tensor]:
    """Google's code has no projection where embedding_size equals hidden_size: the identity stands in for it."""
    weight, bias = f"{names.MAPPING}.weight", f"{names.MAPPING}.bias"
    if config.embedding_size == config.hidden_size and not {weight, bias} & tensors.keys():
        tensors[weight] = torch.eye(config.hidden_size)
        tensors[bias] = torch.zeros(config.hidden_size)
    return tensors
