"""What lmms-eval finds through the entry point `lmms_eval.models`: `python -m lmms_eval --model foveate`."""

from typing import Any


def manifest() -> Any:
    """Where the model class is; it is imported when asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("foveate", simple_class_path="foveate.bench.lmms_model.FoveateModel")
