"""Every parameter name that an ALBERT checkpoint has ever used, and its present Hugging Face name, as tables.

The names inside this package are those of a Hugging Face model with a head: encoder parameters start with ``albert.``,
head parameters do not. ``without_prefix`` gives the names of the headless ``AlbertModel``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from albert_fast.errors import CheckpointError

Value = TypeVar("Value")

PREFIX = "albert."
ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")

WORD_EMBEDDINGS = "albert.embeddings.word_embeddings.weight"
MAPPING = "albert.encoder.embedding_hidden_mapping_in"

# Group and layer of a parameter of a transformer layer.
LAYER = re.compile(r"albert\.encoder\.albert_layer_groups\.(\d+)\.albert_layers\.(\d+)\.")

# A parameter and the one that it repeats when config.tie_word_embeddings is on.
DECODER_WEIGHT, DECODER_BIAS = "predictions.decoder.weight", "predictions.decoder.bias"
TIED = {DECODER_WEIGHT: WORD_EMBEDDINGS, DECODER_BIAS: "predictions.bias"}

# Parameters that one ALBERT class has and another lacks. Present without being asked for, they are left unused.
HEAD_PARTS = ("predictions.", "sop_classifier.", "classifier.", "qa_outputs.", "albert.pooler.", "pooler.")

# Index buffers that older transformers versions stored; they hold no weights.
BUFFERS = re.compile(r"(?:.*\.)?embeddings\.(?:position_ids|token_type_ids)")

# PyTorch state dicts: what older files say -> what it is called now.
TORCH_RENAMES = (
    (re.compile(r"^module\."), ""),  # torch.nn.DataParallel
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
)

# TensorFlow's leaf -> (Hugging Face's leaf, transposed). Dense kernels are [in, out] there and [out, in] here.
TF_LEAVES = {
    "kernel": ("weight", True),
    "bias": ("bias", False),
    "gamma": ("weight", False),
    "beta": ("bias", False),
}
TF1_LEAVES = TF_LEAVES | {
    "output_weights": ("weight", False),
    "output_bias": ("bias", False),
    "word_embeddings": ("word_embeddings.weight", False),
    "token_type_embeddings": ("token_type_embeddings.weight", False),
    "position_embeddings": ("position_embeddings.weight", False),
}
KERAS_LEAVES = TF_LEAVES | {"weight": ("weight", False), "embeddings": ("weight", False)}

# Google's scopes, without the leaf.
_GROUP = r"bert/encoder/transformer/group_(\d+)/(?:layer_\d+/)?inner_group_(\d+)/"
_LAYER = r"albert.encoder.albert_layer_groups.\1.albert_layers.\2."
_NORM = r"(?:LayerNorm|layer_normalization)"
TF1_SCOPES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"bert/embeddings", r"albert.embeddings"),
        (rf"bert/embeddings/{_NORM}", r"albert.embeddings.LayerNorm"),
        (r"bert/encoder/embedding_hidden_mapping_in", MAPPING),
        (rf"{_GROUP}attention_1/self/(query|key|value)", rf"{_LAYER}attention.\3"),
        (rf"{_GROUP}attention_1/output/dense", rf"{_LAYER}attention.dense"),
        (rf"{_GROUP}{_NORM}", rf"{_LAYER}attention.LayerNorm"),
        (rf"{_GROUP}ffn_1/intermediate/dense", rf"{_LAYER}ffn"),
        (rf"{_GROUP}ffn_1/intermediate/output/dense", rf"{_LAYER}ffn_output"),
        (rf"{_GROUP}{_NORM}_1", rf"{_LAYER}full_layer_layer_norm"),
        (r"bert/pooler/dense", r"albert.pooler"),
        (r"cls/predictions/transform/dense", r"predictions.dense"),
        (rf"cls/predictions/transform/{_NORM}", r"predictions.LayerNorm"),
        (r"cls/predictions", r"predictions"),
        (r"cls/seq_relationship", r"sop_classifier.classifier"),
        (r"cls/squad", r"qa_outputs"),
        (r"", r"classifier"),
    )
)
TF1_SKIPPED = re.compile(
    r"(?:.*/)?(?:global_step|adam_[mv]|lamb_[mv]|beta[12]_power|AdamWeightDecayOptimizer\w*|LAMBOptimizer\w*)(?:/.*)?"
)
TF1_SQUAD2 = re.compile(r"(?:start_logits|end_logits|answer_class)/.*")

# Keras: whatever scopes come first, the name starts at one of these.
_KERAS_START = re.compile(
    r"(?:^|/)((?:albert/(?:embeddings|encoder|pooler)|predictions|sop_classifier|classifier|qa_outputs)/.+)"
)


def from_torch(name: str) -> str:
    """The present name of a parameter in a PyTorch state dict, with the ``albert.`` prefix where it belongs."""
    for pattern, replacement in TORCH_RENAMES:
        name = pattern.sub(replacement, name)
    return PREFIX + name if name.startswith(ENCODER_PARTS) else name


def from_tf1(variable: str) -> tuple[str, bool] | None:
    """The present name of a Google TF1 variable and whether it is transposed; None for an unknown variable."""
    scope, _, leaf = variable.removeprefix("module/").rpartition("/")
    for pattern, replacement in TF1_SCOPES:
        found = pattern.fullmatch(scope)
        if found and leaf in TF1_LEAVES:
            name, transposed = TF1_LEAVES[leaf]
            return f"{found.expand(replacement)}.{name}", transposed
    return None


def from_keras(weight: str) -> tuple[str, bool] | None:
    """The present name of a Keras weight of ``tf_model.h5`` and whether it is transposed; None for an unknown one.

    Args:
        weight: its path below the layer's group, for example ``tf_albert_model/albert/pooler/kernel:0``.
    """
    found = _KERAS_START.search(weight.removesuffix(":0"))
    if found is None:
        return None
    scope, _, leaf = re.sub(r"_\._(\d+)", r"/\1", found.group(1)).rpartition("/")
    if leaf not in KERAS_LEAVES:
        return None
    name, transposed = KERAS_LEAVES[leaf]
    return f"{scope.replace('/', '.')}.{name}", transposed


def with_prefix(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Names of a model with a head: ``embeddings.``, ``encoder.`` and ``pooler.`` get the ``albert.`` prefix."""
    return collect((PREFIX + n if n.startswith(ENCODER_PARTS) else n, n, v) for n, v in tensors.items())


def without_prefix(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Names of the headless model: the ``albert.`` prefix is taken off; head parameters keep their names."""
    return collect((n.removeprefix(PREFIX), n, v) for n, v in tensors.items())


def collect(renamed: Iterable[tuple[str, str, Value]]) -> dict[str, Value]:
    """A mapping from (new name, old name, value) rows.

    Raises:
        CheckpointError: two old names have one new name; all such pairs are listed.
    """
    values: dict[str, Value] = {}
    origin: dict[str, str] = {}
    clashes = []
    for new, old, value in renamed:
        if new in origin:
            clashes.append(f"{origin[new]} and {old} are both {new}")
        values[new], origin[new] = value, old
    if clashes:
        raise CheckpointError(
            f"the checkpoint names parameters twice: {'; '.join(clashes)}. Expected one tensor per parameter; "
            "keep one of each pair and save the checkpoint again"
        )
    return values


def is_head(name: str) -> bool:
    """Whether a parameter belongs to a head (or the pooler), which other ALBERT classes may lack."""
    return name.startswith(HEAD_PARTS)
