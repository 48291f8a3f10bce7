"""One call of the vision encoder: what is put on the tower meanwhile, and what is known of its images afterwards."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from foveate.errors import ModelError
from foveate.geometry.base import Kind
from foveate.hf.between import BetweenCut
from foveate.hf.calls import SIZES
from foveate.hf.checks import MARK
from foveate.hf.encoder_cut import EncoderCut
from foveate.hf.encodings import Encoding, store, stored
from foveate.hf.plan_checks import check_counts
from foveate.hf.wrappers import as_written


def wrapped(attachment: Any, kind: Kind, original: Callable[..., Any]) -> Callable[..., Any]:
    """get_image_features or get_video_features, with taps and the encoder cut around the tower."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def encode(*args: Any, **kwargs: Any) -> Any:
        if getattr(attachment.local, "encoding", False) or not attachment.there:
            # Qwen's video encoder calls its image encoder. And who has wrapped this may call it after detach.
            return original(*args, **kwargs)
        call = signature.bind_partial(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        if attachment.run is not None:
            # Sizes are looked at again and again: in host memory, where they were read already.
            copies = {id(v): copy for v, copy in attachment.run.told}
            call = {k: copies.get(id(v), v) for k, v in call.items()}
        try:
            encoding = Encoding(attachment, attachment.family.units(attachment.base, kind, call))
        except (AttributeError, KeyError, TypeError) as e:
            if missing := [n for n in signature.parameters if n.endswith(SIZES) and call.get(n) is None]:
                raise ModelError(f"pixels without {missing[0]}; pass all that the processor gives") from e
            raise
        if not attachment.family.joins_units:
            check_counts(attachment.plan, [u.tokens for u in encoding.units])
        elif attachment.run is None:
            # Which tiles make one image is not known yet; but no image has more tokens than all of them.
            for cut in attachment.plan.cuts:
                cut.count(sum(u.tokens for u in encoding.units))
        ready = stored(attachment, kind)
        if ready is not None:
            output, encoding = ready[0], ready[1].under(attachment)
        else:
            attachment.local.encoding = True
            try:
                how = BetweenCut if attachment.plan.between else EncoderCut
                with how(attachment, encoding, kind, call) as cut, as_written(cut.hooked):
                    output = original(*args, **kwargs)
            finally:
                attachment.local.encoding = False
            if attachment.features is not None and attachment.encoder_cut is None:
                store(attachment.features, kind, output, encoding)
        run = attachment.run
        if run is not None:
            run.encoded[kind] = encoding.images
            run.seconds += encoding.seconds
        else:
            # `generate` encodes ahead of the forward pass that uses it.
            encoding.sign(output)
            attachment.pending[kind] = encoding
            setattr(output, MARK, encoding)
        return output

    return encode
