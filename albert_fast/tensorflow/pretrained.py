"""What every TF class can do with its weights: load, save, initialise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError
from albert_fast.tensorflow import h5
from albert_fast.tensorflow.inputs import TakesInputs
from albert_fast.tensorflow.layers import Table
from albert_fast.tensorflow.outputs import TFModelOutput
from albert_fast.tensorflow.runtime import keras
from albert_fast.tensorflow.training import TrainedByKeras

if TYPE_CHECKING:
    from torch import Tensor

    from albert_fast.pretrained import AlbertPreTrainedModel


class TFAlbertPreTrainedModel(TakesInputs, TrainedByKeras):
    """An ALBERT as a Keras model: weights made at once, under the names that they have in ``tf_model.h5``.

    Args:
        config: sizes and settings.
        dtype: a Keras dtype policy or its name: ``"float32"``, ``"mixed_bfloat16"``, ``"mixed_float16"``,
            ``"float16"``, ``"bfloat16"``; None takes ``keras.config.dtype_policy()``. LayerNorm, softmax and losses run
            in float32 whatever it is.
    """

    base_model_prefix = "albert"

    def __init__(self, config: AlbertConfig, *, dtype: Any = None, **options: Any) -> None:
        if not isinstance(config, AlbertConfig):
            raise ValueError(
                f"config is a {type(config).__name__}, expected albert_fast.AlbertConfig; for a dict use "
                "AlbertConfig.from_dict"
            )
        super().__init__(dtype=dtype, autocast=False, **options)
        self.config = config
        self.build()

    @classmethod
    def counterpart(cls) -> type[AlbertPreTrainedModel]:
        """The PyTorch class with the same parameters."""
        from albert_fast import heads

        found: type[AlbertPreTrainedModel] = getattr(heads, cls.__name__.removeprefix("TF"))
        return found

    def get_config(self) -> dict[str, Any]:
        """What ``keras.saving`` needs to make the model again."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        return {"config": self.config.to_dict(), "dtype": policy, "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Self:
        """The inverse of ``get_config``."""
        policy = keras.dtype_policies.deserialize(config["dtype"])
        return cls(AlbertConfig.from_dict(config["config"]), dtype=policy, name=config["name"])

    def get_input_embeddings(self) -> Table:
        """The word table."""
        table: Table = self.albert.get_input_embeddings()
        return table

    def returned(self, output: TFModelOutput, return_dict: bool | None) -> Any:
        """The output itself, or the tuple of its set fields when ``return_dict``, or else the config's, is False."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def named_weights(self) -> dict[str, tuple[Any, bool]]:
        """Hugging Face's name of every weight -> the variable, and whether it is that parameter transposed."""
        from albert_fast.checkpoint import names

        rows = {}
        for variable in self.weights:
            known = names.from_keras(variable.path)
            assert known is not None, f"{variable.path} is no weight that an ALBERT has"
            rows[known[0]] = (variable, known[1])
        return rows

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        config: AlbertConfig | None = None,
        dtype: Any = None,
        strict: bool = True,
        from_pt: bool = False,
        from_tf: bool = False,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **config_changes: Any,
    ) -> Self:
        """Load a checkpoint, whichever of the formats that ``AlbertModel.from_pretrained`` reads it is in.

        Args:
            name_or_path: folder (Hugging Face, Google TF1), hub name, or the embedded ``"albert-fast/wordnet"``.
            config: used instead of the folder's own.
            dtype: a Keras dtype policy, as in the constructor.
            strict: False lets a head that the checkpoint lacks start from random weights; a warning names it.
            from_pt: refuse a checkpoint that TensorFlow wrote. Without it PyTorch's comes first all the same.
            from_tf: read the TensorFlow checkpoint in the folder even if there is another.
            revision, cache_dir, local_files_only: for hub names, as in ``huggingface_hub``.
            config_changes: config fields to override, for example ``num_labels=3``.
        Raises:
            CheckpointError: not an ALBERT, damaged, or keys that do not fit; all of them are listed.
            MissingDependencyError: the file format or the hub needs an extra.
        """
        from albert_fast import checkpoint

        if from_pt and from_tf:
            raise ValueError("from_pt and from_tf exclude each other; give one of them or none")
        loaded = checkpoint.load(
            name_or_path, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, from_tf=from_tf
        )
        if from_pt and loaded.source in {source.name for source in checkpoint.SOURCES if source.from_tf}:
            raise CheckpointError(
                f"{loaded.folder} holds a checkpoint of kind {loaded.source}, and from_pt=True asks for one that "
                "PyTorch wrote; leave from_pt out to read it"
            )
        config = (config or loaded.config).replace(**config_changes)
        found = cls._fitting(loaded.tensors, config, strict=strict, origin=str(loaded.folder))
        model = cls(config, dtype=dtype)
        for name, (variable, transposed) in model.named_weights().items():
            if name in found:  # all are, but for a new head with strict=False
                value = found[name].float().numpy()
                variable.assign(value.T if transposed else value)
        return model

    @classmethod
    def _fitting(
        cls, tensors: Mapping[str, Tensor], config: AlbertConfig, *, strict: bool, origin: str
    ) -> dict[str, Tensor]:
        """The tensors that the class takes; names and shapes are compared before any memory is taken for a model."""
        import torch

        from albert_fast import checkpoint

        with torch.device("meta"):
            model = cls.counterpart()(config)
        state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tied = checkpoint.with_prefix({name: name for name in model.ties()})
        expected = {name: shape for name, shape in checkpoint.with_prefix(state).items() if name not in tied}
        return checkpoint.match(tensors, expected, strict=strict, origin=origin)

    def save_pretrained(self, folder: str | os.PathLike[str], *, safe_serialization: bool = True) -> None:
        """Write ``config.json`` and the weights, whole or not at all.

        Args:
            safe_serialization: True writes ``model.safetensors`` under the names of the PyTorch classes, which this
                library and ``transformers`` load in either framework; False writes ``tf_model.h5`` as the TensorFlow
                classes of ``transformers`` 4 did.
        Raises:
            ValueError: ``tf_model.h5`` of a model with a decoder of its own, which the format does not know.
        """
        import torch

        from albert_fast import checkpoint

        config = self.config.replace(architectures=[self.counterpart().__name__], dtype=self.variable_dtype)
        if not safe_serialization:
            if not config.tie_word_embeddings:
                raise ValueError(
                    "tie_word_embeddings is off, and tf_model.h5 knows no decoder apart from the word embeddings; save "
                    "with safe_serialization=True"
                )
            h5.write(Path(folder) / h5.H5, self.weights)
            config.save_pretrained(folder)
            return
        tensors = {}
        for name, (variable, transposed) in self.named_weights().items():
            value = variable.value.numpy().astype(np.float32)
            tensor = torch.from_numpy(value.T if transposed else value).to(getattr(torch, self.variable_dtype))
            tensors[name] = tensor
        headless = type(self).__name__ == "TFAlbertModel"
        checkpoint.save(config, checkpoint.without_prefix(tensors) if headless else tensors, folder)
