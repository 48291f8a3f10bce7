"""The text side of a vision tower's checkpoint: how close each token is to the question in their joint space.

A CLIP or SigLIP checkpoint is two towers and one space. A multimodal model keeps the vision tower alone; methods that
compare patches with the question need the other half of the same checkpoint, which is loaded beside the model. Single
patches are brought into the space as the image's pooled state would be: CLIP's last norm and projection, SigLIP's
attention pooling over the one patch. A question longer than the text tower takes is cut into chunks, whose similarities
are averaged, as CDPruner does.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from foveate.errors import ModelError, short
from foveate.words import Words, rule, tokens_of

KINDS = ("clip", "siglip", "siglip2")


class TextTower:
    """Similarities of tokens and questions."""

    def __init__(self, joint: Any, tokenizer: Any, read: Callable[[list[int]], str]) -> None:
        """See `load`.

        Args:
            joint: a CLIPModel or SiglipModel.
            tokenizer: its tokenizer, a fast one.
            read: ids of the language model -> their text.

        Raises:
            ModelError: another kind of model.
        """
        if joint.config.model_type not in KINDS:
            raise ModelError(
                f"the text tower is a {joint.config.model_type}; it must be one of {', '.join(KINDS)}, the whole "
                "checkpoint that the model's vision tower comes from"
            )
        self.joint, self.tokenizer, self.read = joint.eval(), tokenizer, read

    @torch.no_grad()
    def similarity(self, features_NC: Tensor, ids_T: Tensor) -> Tensor:
        """Cosine of each token to the question: [N], float32.

        Args:
            features_NC: of the tower's feature layer.
            ids_T: the question, as the language model's ids.

        Raises:
            ModelError: features of another width: of another checkpoint.
        """
        width = self.joint.config.vision_config.hidden_size
        if features_NC.shape[-1] != width:
            raise ModelError(
                f"the text tower's checkpoint sees images {width} wide, but this model's vision tower gives "
                f"{features_NC.shape[-1]}; name the checkpoint that the vision tower comes from"
            )
        weight = next(self.joint.parameters())
        patches_NC = features_NC.to(weight.device, weight.dtype)
        vision = self.joint.vision_model
        if self.joint.config.model_type == "clip":
            patches_NC = self.joint.visual_projection(vision.post_layernorm(patches_NC))
        else:
            patches_NC = vision.head(vision.post_layernorm(patches_NC)[:, None])
        texts_MC = self._texts(tuple(ids_T.tolist())).to(patches_NC.device)
        unit_NC = normalize(patches_NC.float(), dim=-1)
        return (unit_NC @ normalize(texts_MC, dim=-1).mT).mean(-1).to(features_NC.device)

    def _texts(self, ids: tuple[int, ...]) -> Tensor:
        """The question's chunks in the joint space, [M, C]."""
        tokens = self.tokenizer(
            self.read(list(ids)),
            truncation=True,
            max_length=self.joint.config.text_config.max_position_embeddings,
            padding="max_length" if self.joint.config.model_type != "clip" else True,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        known = {k: v.to(self.joint.device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
        out = self.joint.get_text_features(**known)
        texts: Tensor = getattr(out, "pooler_output", out)
        return texts.float()


def load(source: str, model: Any, tokenizer: Any = None) -> TextTower:
    """The text tower of a checkpoint, for a model that has its vision tower.

    Args:
        source: folder or hub id of the whole CLIP or SigLIP checkpoint.
        model: whose prompts are read.
        tokenizer: the model's; None loads it from where the model came from.

    Raises:
        ModelError: nothing can be loaded from there, or it is no such checkpoint; no tokenizer is known.
    """
    words = reader(model, tokenizer)
    joint, own = _loaded(AutoModel, source), _loaded(AutoTokenizer, source)
    joint.to(device=model.device)
    return TextTower(joint, own, lambda ids: str(words.decode(ids, skip_special_tokens=True)))


def tokenizer_of(given: Any) -> Any:
    """The tokenizer that was given, or that of a processor; None where none was.

    Raises:
        ModelError: it is neither.
    """
    if given is not None and not hasattr(given, "all_special_ids"):
        given = getattr(given, "tokenizer", given)
        if not hasattr(given, "decode"):
            raise ModelError(f"tokenizer is {short(repr(given))}; give the model's tokenizer, or its processor")
    return given


def reader(model: Any, tokenizer: Any = None) -> Any:
    """The tokenizer of a model: the given one, or from where the model came.

    Raises:
        ModelError: nobody knows.
    """
    if tokenizer is not None:
        return tokenizer
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        raise ModelError("this model does not say where it came from; pass its tokenizer: attach(..., tokenizer=)")
    return _loaded(AutoTokenizer, name)


class Counting:
    """Which tokens of a question belong to words that count, by a rule of `foveate.words`."""

    def __init__(self, words: Words, tokenizer: Any) -> None:
        self.rule, self.tokenizer = rule(words), tokenizer

    def __call__(self, ids_T: Tensor) -> Tensor:
        """[T] bool, in host memory; where no word counts, all do."""
        ids: list[int] = ids_T.tolist()
        # A token's letters are those that come with it: tokens are no words, and spaces belong to either side.
        texts = [str(self.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
        text = texts[-1] if texts else ""
        counts = tokens_of(self.rule(text), [min(len(t), len(text)) for t in texts], text)
        return torch.tensor(counts if any(counts) else [True] * len(ids), dtype=torch.bool)


@lru_cache(maxsize=8)
def _loaded(kind: Any, source: str) -> Any:
    try:
        return kind.from_pretrained(source)
    except (OSError, ValueError) as e:
        raise ModelError(f"cannot load {source!r} ({str(e).splitlines()[0]}); is it a folder or hub id?") from None
