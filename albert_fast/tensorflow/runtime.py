"""TensorFlow and Keras, or the sentence that says what to install or to set."""

from __future__ import annotations

from typing import Any

from albert_fast._optional import require

_PURPOSE = "run ALBERT in TensorFlow"

tf: Any = require("tensorflow", extra="tensorflow", purpose=_PURPOSE)
keras: Any = require("keras", extra="tensorflow", purpose=_PURPOSE)
optree: Any = require("optree", extra="tensorflow", purpose=_PURPOSE)  # what Keras 3 takes structures apart with

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras runs on {keras.backend.backend()!r} in this process, and the TF classes need 'tensorflow': set the "
        "environment variable KERAS_BACKEND=tensorflow before Keras is imported, or mend ~/.keras/keras.json"
    )
