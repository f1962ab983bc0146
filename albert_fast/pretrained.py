"""What every ALBERT class can do with its weights: load, save, initialise and tie them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from albert_fast.attention import resolve_attention
from albert_fast.config import AlbertConfig

if TYPE_CHECKING:
    from albert_fast.checkpoint import Checkpoint


class AlbertPreTrainedModel(nn.Module):
    """What every ALBERT class here can do: load, save, initialise, and tie its weights.

    Args:
        config: sizes and settings.
        attn_implementation: ``"eager"``, ``"sdpa"``, or ``"auto"``: sdpa, and eager for calls that ask for attentions.
    """

    base_model_prefix = "albert"
    tied_weights: Mapping[str, str] = {}
    """Name of a tied parameter -> name of the one it shares."""

    def __init__(self, config: AlbertConfig, *, attn_implementation: str = "auto") -> None:
        super().__init__()
        if not isinstance(config, AlbertConfig):
            raise ValueError(
                f"config is a {type(config).__name__}, expected albert_fast.AlbertConfig; for a transformers model use "
                "albert_fast.from_transformers(model), for a dict AlbertConfig.from_dict"
            )
        resolve_attention(attn_implementation, need_probabilities=False)
        self.config = config
        self.attn_implementation = attn_implementation

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def init_weights(self) -> None:
        """Draw all weights anew: normal with ``initializer_range``, biases 0, LayerNorms 1 and 0; then tie."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
                elif module.padding_idx is not None:
                    with torch.no_grad():
                        module.weight[module.padding_idx].zero_()
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        self.tie_weights()

    def ties(self) -> dict[str, str]:
        """``tied_weights`` that this config has: all, or without the decoder's weight where it has its own."""
        own_decoder = not self.config.tie_word_embeddings
        return {n: s for n, s in self.tied_weights.items() if not (own_decoder and n.endswith(".weight"))}

    def tie_weights(self) -> None:
        """Make tied parameters one and the same tensor."""
        for name, source in self.ties().items():
            parent, _, attribute = name.rpartition(".")
            setattr(self.get_submodule(parent), attribute, self.get_parameter(source))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        config: AlbertConfig | None = None,
        dtype: torch.dtype | None = None,
        attn_implementation: str = "auto",
        strict: bool = True,
        from_tf: bool = False,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **config_changes: Any,
    ) -> Self:
        """Load a checkpoint into a model in ``eval`` mode.

        Args:
            name_or_path: folder (Hugging Face, Google TF1), hub name, or the embedded ``"albert-fast/wordnet"``.
            config: used instead of the folder's own.
            dtype: of the weights; None means float32 whatever the file holds.
            strict: False lets a head that the checkpoint lacks start from random weights; a warning names it.
            from_tf: read the TensorFlow checkpoint in the folder even if there is another.
            revision, cache_dir, local_files_only: for hub names, as in ``huggingface_hub``.
            config_changes: config fields to override, for example ``num_labels=3``.
        Raises:
            CheckpointError: not an ALBERT, damaged, or keys that do not fit; all of them are listed.
            MissingDependencyError: the file format or the hub needs an extra.
        """
        from albert_fast import checkpoint

        loaded = checkpoint.load(
            name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            from_tf=from_tf,
        )
        return cls.from_checkpoint(
            loaded, config=config, dtype=dtype, attn_implementation=attn_implementation, strict=strict, **config_changes
        )

    @classmethod
    def from_checkpoint(
        cls,
        loaded: Checkpoint,
        *,
        config: AlbertConfig | None = None,
        dtype: torch.dtype | None = None,
        attn_implementation: str = "auto",
        strict: bool = True,
        **config_changes: Any,
    ) -> Self:
        """A model in ``eval`` mode over what ``checkpoint.load`` returned. Arguments as in ``from_pretrained``.

        Shapes are compared on a model without memory; parameters that need no cast share the checkpoint's tensors.
        """
        from albert_fast import checkpoint

        config = (config or loaded.config).replace(**config_changes)
        with torch.device("meta"):
            model = cls(config, attn_implementation=attn_implementation)
        prefix = "" if hasattr(model, cls.base_model_prefix) else cls.base_model_prefix + "."
        expected = {prefix + name: tuple(p.shape) for name, p in model.state_dict(keep_vars=True).items()}
        tied = {prefix + name: prefix + source for name, source in model.ties().items()}
        found = checkpoint.match(loaded.tensors, expected, tied=tied, strict=strict, origin=str(loaded.folder))
        if expected.keys() - found.keys() - tied.keys():  # only with strict=False: a head the checkpoint lacks
            fresh = cls(config).state_dict()
            found = {prefix + name: tensor for name, tensor in fresh.items()} | found
        values = {name.removeprefix(prefix): tensor.to(dtype or torch.float32) for name, tensor in found.items()}
        model.load_state_dict({n: t for n, t in values.items() if prefix + n not in tied}, strict=False, assign=True)
        model.tie_weights()
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` that ``transformers`` and this library load back."""
        from albert_fast import checkpoint

        dtype = str(self.dtype).removeprefix("torch.")
        config = self.config.replace(architectures=[type(self).__name__], dtype=dtype)
        checkpoint.save(config, self.state_dict(), folder)
