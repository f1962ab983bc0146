"""AlbertConfig: the facts of one ALBERT, under Hugging Face's field names."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_fast.files import replacing

CONFIG_NAME = "config.json"

ACTIVATION_NAMES = (
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "linear", "mish", "relu", "relu6", "sigmoid",
    "silu", "swish", "tanh",
)  # fmt: skip

# Smallest and largest legal value. The upper ends are far above any published ALBERT (xxlarge: 4096 wide, 12 passes)
# and keep a hostile config from asking for more memory than a machine has.
_INTEGER_LIMITS = {
    "vocab_size": (1, 4_000_000),
    "embedding_size": (1, 65_536),
    "hidden_size": (1, 65_536),
    "num_hidden_layers": (1, 1_024),
    "num_hidden_groups": (1, 1_024),
    "num_attention_heads": (1, 4_096),
    "intermediate_size": (1, 262_144),
    "inner_group_num": (1, 1_024),
    "max_position_embeddings": (1, 1_048_576),
    "type_vocab_size": (1, 65_536),
}
_PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
_MAX_PARAMETERS = 20_000_000_000

_V2 = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_V1 = {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_SIZES = {
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "xlarge": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 8192,
    },
    "xxlarge": {
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
    },
}
PUBLISHED: dict[str, dict[str, Any]] = {
    f"albert-{size}-v{version}": {**shape, **activation}
    for version, activation in ((1, _V1), (2, _V2))
    for size, shape in _SIZES.items()
}
PUBLISHED["albert-xxlarge-v1"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True, init=False)
class AlbertConfig:
    """One ALBERT's sizes and settings, immutable; ``replace`` gives a changed copy.

    The constructor takes keywords only, under the names of ``transformers.AlbertConfig`` and with its defaults
    (xxlarge), plus ``num_labels``. Keywords it does not know are kept in ``extra`` and written back by ``to_dict``.

    Raises:
        ValueError: values that make no ALBERT; every problem is listed in one message.
    """

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float | None = 0.1
    position_embedding_type: str = "absolute"
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3
    tie_word_embeddings: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    problem_type: str | None = None
    id2label: dict[int, str] = field(default_factory=lambda: _default_labels(2))
    extra: dict[str, Any] = field(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        model_type = values.pop("model_type", "albert")
        known = {f.name: f for f in dataclasses.fields(self)}
        extra = dict(values.pop("extra", {}))
        labels = _labels(values.pop("num_labels", None), values.pop("id2label", None), values.pop("label2id", None))
        extra |= {name: values.pop(name) for name in list(values) if name not in known}
        for name, f in known.items():
            default = f.default if f.default is not dataclasses.MISSING else None
            object.__setattr__(self, name, values.get(name, default))
        object.__setattr__(self, "id2label", labels)
        object.__setattr__(self, "extra", extra)
        problems = _problems(self)
        if model_type != "albert":
            problems.insert(0, f"model_type is {model_type!r}, expected 'albert'")
        if problems:
            raise ValueError("this is not a valid AlbertConfig: " + "; ".join(problems))

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True, default=str))

    @property
    def num_labels(self) -> int:
        """Number of classes of a classification head."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The inverse of ``id2label``."""
        return {label: index for index, label in self.id2label.items()}

    @property
    def head_size(self) -> int:
        """Width of one attention head: ``hidden_size / num_attention_heads``."""
        return self.hidden_size // self.num_attention_heads

    @property
    def schedule(self) -> tuple[int, ...]:
        """For every pass the index of the layer it applies, counting layers group by group.

        ALBERT-base gives ``(0,) * 12``: one layer, twelve passes. Group of outer pass ``i`` as in Lan et al.'s code:
        ``int(i / (num_hidden_layers / num_hidden_groups))``; a group applies its ``inner_group_num`` layers in turn.
        """
        layers_per_group = self.num_hidden_layers / self.num_hidden_groups
        groups = [int(i / layers_per_group) for i in range(self.num_hidden_layers)]
        return tuple(g * self.inner_group_num + k for g in groups for k in range(self.inner_group_num))

    @classmethod
    def published(cls, name: str) -> AlbertConfig:
        """The config of one of the eight published English checkpoints, for example ``"albert-base-v2"``."""
        key = name.removeprefix("albert/")
        if key not in PUBLISHED:
            raise ValueError(f"{name!r} is not a published ALBERT; expected one of {', '.join(sorted(PUBLISHED))}")
        return cls(**PUBLISHED[key])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlbertConfig:
        """Build from the content of a ``config.json``. Unknown fields are kept."""
        return cls(**dict(values))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **changes: Any) -> AlbertConfig:
        """Read ``config.json`` from a folder (or a file), or take a published size, embedded model or hub repository.

        Args:
            changes: fields to override, for example ``num_labels=3``.
        Raises:
            ValueError: no such file, not JSON, or not an ALBERT. ``CheckpointError``, a ``ValueError``: not on the hub.
            MissingDependencyError: a hub name without ``huggingface_hub``.
        """
        name, path = os.fspath(name_or_path), Path(name_or_path)
        if not path.exists() and name.removeprefix("albert/") in PUBLISHED:
            return cls.published(name).replace(**changes)
        if not path.exists():
            from albert_fast.checkpoint import hub

            path = hub.resolve(name, allow_patterns=[CONFIG_NAME])
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"no {CONFIG_NAME} at {str(path)!r}; pass a folder that save_pretrained wrote")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not JSON ({error}); expected an ALBERT config") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a JSON {type(values).__name__}, expected an object with ALBERT's fields")
        return cls.from_dict(values).replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field, the unknown ones included, as JSON-ready values under Hugging Face's names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        values["id2label"] = {str(index): label for index, label in self.id2label.items()}
        return {"model_type": "albert", **self.extra, **values, "label2id": self.label2id}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` into ``folder`` (made if absent), whole or not at all. Returns the file's path."""
        target = Path(folder) / CONFIG_NAME
        with replacing(target) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return target

    def replace(self, **changes: Any) -> AlbertConfig:
        """A copy with some fields changed; ``num_labels=n`` gives ``n`` labels with default names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if {"num_labels", "id2label", "label2id"} & changes.keys():
            values.pop("id2label")
        return AlbertConfig(**{**values, **changes})


def _default_labels(number: int) -> dict[int, str]:
    return {index: f"LABEL_{index}" for index in range(number)}


def _labels(number: Any, id2label: Any, label2id: Any) -> dict[int, str]:
    """One table of labels out of the three fields that may tell it."""
    if id2label is None and label2id is not None:
        id2label = {index: label for label, index in dict(label2id).items()}
    if id2label is None:
        if number is not None and (not isinstance(number, int) or not 1 <= number <= 1_000_000):
            raise ValueError(f"num_labels is {number!r}, expected an integer from 1 to 1000000")
        return _default_labels(2 if number is None else number)
    try:
        labels = {int(index): str(label) for index, label in dict(id2label).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"id2label is {id2label!r}, expected a mapping from class number to label") from error
    if sorted(labels) != list(range(len(labels))) or not labels:
        raise ValueError(f"id2label has the classes {sorted(labels)[:10]}, expected 0..{max(len(labels) - 1, 0)}")
    if number is not None and number != len(labels):
        raise ValueError(f"num_labels is {number}, but id2label names {len(labels)} classes; give one of them")
    return dict(sorted(labels.items()))


def _problems(config: AlbertConfig) -> list[str]:
    """Everything that keeps a config from being an ALBERT, one sentence each."""
    found = []
    for name, (low, high) in _INTEGER_LIMITS.items():
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            found.append(f"{name} is {value!r}, expected an integer from {low} to {high}")
    for name in _PROBABILITIES:
        value = getattr(config, name)
        if value is None and name == "classifier_dropout_prob":
            continue
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            found.append(f"{name} is {value!r}, expected a probability from 0 to 1")
    eps = config.layer_norm_eps
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        found.append(f"layer_norm_eps is {eps!r}, expected a small number such as 1e-12")
    if config.hidden_act not in ACTIVATION_NAMES:
        found.append(f"hidden_act is {config.hidden_act!r}, expected one of {', '.join(ACTIVATION_NAMES)}")
    if config.position_embedding_type != "absolute":
        found.append(f"position_embedding_type is {config.position_embedding_type!r}, only 'absolute' exists here")
    if found:
        return found
    if config.hidden_size % config.num_attention_heads:
        found.append(f"hidden_size {config.hidden_size} is no multiple of {config.num_attention_heads} attention heads")
    if config.num_hidden_groups > config.num_hidden_layers:
        found.append(f"{config.num_hidden_groups} groups for {config.num_hidden_layers} layers; some would never run")
    pad = config.pad_token_id
    if pad is not None and not (isinstance(pad, int) and 0 <= pad < config.vocab_size):
        found.append(f"pad_token_id is {pad!r}, expected None or an id below vocab_size {config.vocab_size}")
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    total = layer * config.num_hidden_groups * config.inner_group_num + config.vocab_size * config.embedding_size
    if total > _MAX_PARAMETERS:
        found.append(f"it would have about {total / 1e9:.0f} billion parameters, more than any ALBERT")
    return found
