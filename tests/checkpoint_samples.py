"""Small ALBERTs that transformers makes, and the names that TensorFlow gave the same parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import transformers
from transformers import AlbertConfig as TheirConfig

SMALL = {
    "vocab_size": 50,
    "embedding_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
    "inner_group_num": 2,
    "max_position_embeddings": 32,
}
CLASSES = (
    "AlbertModel",
    "AlbertForPreTraining",
    "AlbertForMaskedLM",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertForQuestionAnswering",
    "AlbertForMultipleChoice",
)


def their_model(class_name: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A transformers model in eval mode whose every parameter, biases and LayerNorms too, is random."""
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(TheirConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of the model holds: with prefix, tied tensors once."""
    prefix = "albert." if type(model).__name__ == "AlbertModel" else ""
    return {prefix + n: t for n, t in model.state_dict().items() if not n.startswith("predictions.decoder.")}


def write_config(folder: Path, values: dict, name: str = "config.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


TF1_NAMES = {
    "albert.embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
    "albert.embeddings.position_embeddings.weight": "bert/embeddings/position_embeddings",
    "albert.embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
    "albert.embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
    "albert.embeddings.LayerNorm.bias": "bert/embeddings/LayerNorm/beta",
    "albert.encoder.embedding_hidden_mapping_in.weight": "bert/encoder/embedding_hidden_mapping_in/kernel",
    "albert.encoder.embedding_hidden_mapping_in.bias": "bert/encoder/embedding_hidden_mapping_in/bias",
    "albert.pooler.weight": "bert/pooler/dense/kernel",
    "albert.pooler.bias": "bert/pooler/dense/bias",
    "predictions.dense.weight": "cls/predictions/transform/dense/kernel",
    "predictions.dense.bias": "cls/predictions/transform/dense/bias",
    "predictions.LayerNorm.weight": "cls/predictions/transform/LayerNorm/gamma",
    "predictions.LayerNorm.bias": "cls/predictions/transform/LayerNorm/beta",
    "predictions.bias": "cls/predictions/output_bias",
    "sop_classifier.classifier.weight": "cls/seq_relationship/output_weights",
    "sop_classifier.classifier.bias": "cls/seq_relationship/output_bias",
    "qa_outputs.weight": "cls/squad/output_weights",
    "qa_outputs.bias": "cls/squad/output_bias",
    "classifier.weight": "output_weights",
    "classifier.bias": "output_bias",
}
TF1_LAYER_NAMES = {
    "attention.query.weight": "attention_1/self/query/kernel",
    "attention.query.bias": "attention_1/self/query/bias",
    "attention.key.weight": "attention_1/self/key/kernel",
    "attention.key.bias": "attention_1/self/key/bias",
    "attention.value.weight": "attention_1/self/value/kernel",
    "attention.value.bias": "attention_1/self/value/bias",
    "attention.dense.weight": "attention_1/output/dense/kernel",
    "attention.dense.bias": "attention_1/output/dense/bias",
    "attention.LayerNorm.weight": "LayerNorm/gamma",
    "attention.LayerNorm.bias": "LayerNorm/beta",
    "ffn.weight": "ffn_1/intermediate/dense/kernel",
    "ffn.bias": "ffn_1/intermediate/dense/bias",
    "ffn_output.weight": "ffn_1/intermediate/output/dense/kernel",
    "ffn_output.bias": "ffn_1/intermediate/output/dense/bias",
    "full_layer_layer_norm.weight": "LayerNorm_1/gamma",
    "full_layer_layer_norm.bias": "LayerNorm_1/beta",
}


def to_tf1(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same parameters under Google's names, dense kernels transposed."""
    named = {}
    for name, tensor in tensors.items():
        if ".albert_layer_groups." in name:
            _, _, tail = name.partition(".albert_layer_groups.")
            group, _, layer, leaf = tail.split(".", 3)
            variable = f"bert/encoder/transformer/group_{group}/inner_group_{layer}/{TF1_LAYER_NAMES[leaf]}"
        else:
            variable = TF1_NAMES[name]
        named[variable] = tensor.T if variable.endswith("/kernel") else tensor
    return named


def to_keras(tensors: dict[str, torch.Tensor], scope: str) -> dict[str, torch.Tensor]:
    """The same parameters as datasets of a ``tf_model.h5``, laid out as transformers 4.57 under Keras 2 wrote them."""
    datasets = {}
    for name, tensor in tensors.items():
        layer = name.partition(".")[0]
        norm = "LayerNorm." in name or "layer_norm." in name
        path, _, leaf = name.replace(".", "/").rpartition("/")
        path = re.sub(r"(groups|layers)/(\d+)", r"\1_._\2", path)
        if norm:
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        elif path.endswith(("position_embeddings", "token_type_embeddings")):
            leaf = "embeddings"
        elif leaf == "weight" and not path.endswith("word_embeddings"):
            leaf, tensor = "kernel", tensor.T
        full = f"{scope}/{path}/{leaf}:0".removeprefix("/")
        datasets[f"{layer}/{full}"] = tensor
        if "predictions.bias" in tensors and "/embeddings/" in full:
            datasets[f"predictions/{full}"] = tensor  # Keras stores the head's input embeddings again
        if name == "predictions.bias":
            datasets[f"{layer}/{full.replace('bias:0', 'decoder/bias:0')}"] = tensor
    return datasets
