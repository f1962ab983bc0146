"""albert-fast: ALBERT as compiled graphs, in engine files, with the proof of how close they are to the original.

Nothing is imported until it is asked for; ``import albert_fast`` itself costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "AlbertConfig": "albert_fast.config",
    "AlbertModel": "albert_fast.model",
    "AlbertForPreTraining": "albert_fast.heads",
    "AlbertForMaskedLM": "albert_fast.heads",
    "AlbertForSequenceClassification": "albert_fast.heads",
    "AlbertForTokenClassification": "albert_fast.heads",
    "AlbertForQuestionAnswering": "albert_fast.heads",
    "AlbertForMultipleChoice": "albert_fast.heads",
    "from_transformers": "albert_fast.live_model",
    "AlbertTokenizer": "albert_fast.tokenizer",
    "Recipe": "albert_fast.recipe",
    "export": "albert_fast.recipe",
    "compile": "albert_fast.recipe",
    "calibrate": "albert_fast.recipe",
    "Scales": "albert_fast.precision",
    "load": "albert_fast.engine",
    "pipeline": "albert_fast.pipelines",
    "Engine": "albert_fast.engine",
    "Batch": "albert_fast.batch",
    "ShapeProfile": "albert_fast.batch",
    "CheckpointError": "albert_fast.errors",
    "EngineError": "albert_fast.errors",
    "MissingDependencyError": "albert_fast.errors",
}
# Apart from the others, since asking for one imports TensorFlow, which `from albert_fast import *` must not.
_TENSORFLOW = {
    "TFAlbertModel": "albert_fast.tensorflow",
    "TFAlbertForMaskedLM": "albert_fast.tensorflow",
    "TFAlbertForSequenceClassification": "albert_fast.tensorflow",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name) or _TENSORFLOW.get(name)
    if module is None:
        known = ", ".join([*_PUBLIC, *_TENSORFLOW])
        raise AttributeError(f"module 'albert_fast' has no attribute {name!r}; it has {known}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_TENSORFLOW])


if TYPE_CHECKING:
    from albert_fast.batch import Batch as Batch
    from albert_fast.batch import ShapeProfile as ShapeProfile
    from albert_fast.config import AlbertConfig as AlbertConfig
    from albert_fast.engine import Engine as Engine
    from albert_fast.engine import load as load
    from albert_fast.errors import CheckpointError as CheckpointError
    from albert_fast.errors import EngineError as EngineError
    from albert_fast.errors import MissingDependencyError as MissingDependencyError
    from albert_fast.heads import AlbertForMaskedLM as AlbertForMaskedLM
    from albert_fast.heads import AlbertForMultipleChoice as AlbertForMultipleChoice
    from albert_fast.heads import AlbertForPreTraining as AlbertForPreTraining
    from albert_fast.heads import AlbertForQuestionAnswering as AlbertForQuestionAnswering
    from albert_fast.heads import AlbertForSequenceClassification as AlbertForSequenceClassification
    from albert_fast.heads import AlbertForTokenClassification as AlbertForTokenClassification
    from albert_fast.live_model import from_transformers as from_transformers
    from albert_fast.model import AlbertModel as AlbertModel
    from albert_fast.pipelines import pipeline as pipeline
    from albert_fast.precision import Scales as Scales
    from albert_fast.recipe import Recipe as Recipe
    from albert_fast.recipe import calibrate as calibrate
    from albert_fast.recipe import compile as compile
    from albert_fast.recipe import export as export
    from albert_fast.tensorflow.models import TFAlbertForMaskedLM as TFAlbertForMaskedLM
    from albert_fast.tensorflow.models import TFAlbertForSequenceClassification as TFAlbertForSequenceClassification
    from albert_fast.tensorflow.models import TFAlbertModel as TFAlbertModel
    from albert_fast.tokenizer import AlbertTokenizer as AlbertTokenizer
