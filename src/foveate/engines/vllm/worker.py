"""The worker: chooses, and sends each kept token's place with it. (long: what seven models share)

Places are put into positions where the language model is called.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group
from vllm.multimodal.utils import copy_mm_embedding_modality
from vllm.sequence import IntermediateTensors

from foveate.choosing import Asked, choose
from foveate.engines.vllm import failing
from foveate.engines.vllm.filling import fill
from foveate.engines.vllm.positions import DIGITS, Run, decode, encode, shifted, stretch
from foveate.engines.vllm.settings import KEY, Order, parse
from foveate.engines.vllm.towers import Recorder
from foveate.fields import TOWER
from foveate.geometry.base import Unit

log = logging.getLogger("vllm.foveate")
WIRE = "foveate_places"
"""Places, on their way to later pipeline stages."""
COUNTS: Counter[str] = Counter()
"""What this process did: encoder calls, images encoded, images chosen among, tokens kept, choices that failed."""


Choice = tuple[Tensor, Tensor | None]
"""Places kept of an image, and the weights to mix them by."""


class Foveated:
    """Mixed into a family's model class, before it."""

    geometry: ClassVar[Any]
    config: Any
    language_model: Any
    make_empty_intermediate_tensors: Any
    _places: Tensor | None = None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._reports, self._seen, self._failed = failing.reports(vllm_config), 0, list[int]()
        failing.watch()
        make = self.make_empty_intermediate_tensors

        def with_places(batch_size: int, dtype: torch.dtype, device: torch.device) -> Any:
            out = make(batch_size, dtype, device)
            out.tensors[WIRE] = torch.zeros(batch_size, 3, dtype=torch.long, device=device)
            return out

        self.make_empty_intermediate_tensors = with_places

    # -- choosing

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Rows of each item, pruned, with their places behind the channels."""
        texts = kwargs.pop(KEY, None)
        if texts is None:
            # Videos, and images that came encoded: they keep everything.
            whole = tuple(self._with_places(r, None) for r in super().embed_multimodal(**kwargs))  # type: ignore[misc]
            self._seen += len(whole)
            return whole
        texts = [bytes(t.tolist()).decode() for t in texts]
        orders = [parse(t) for t in texts]
        call = {name: torch.as_tensor(v) if name.endswith("thw") else v for name, v in kwargs.items()}
        units = self.units(call)
        reads = frozenset[str]().union(*(wanted(o) for o in orders))
        recorder = self._recorder(reads)
        with ExitStack() as stack:
            for hook in recorder.hooks() if recorder else ():
                stack.callback(hook.remove)
            rows = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        COUNTS["calls"] += 1
        COUNTS["encoded"] += len(rows)

        @cache
        def signals() -> list[dict[str, Tensor]]:
            return self.signals(recorder, call, units) if recorder else [{} for _ in units]

        out = [self._with_places(r, self.geometry.places(u)) for r, u in zip(rows, units, strict=True)]
        groups: dict[str, list[int]] = defaultdict(list)
        for i, order in enumerate(orders):
            if order.count(units[i].tokens) < units[i].tokens:
                groups[texts[i]].append(i)
        for text, members in groups.items():
            order = parse(text)
            # Asked where a failure is caught: a tower that a hook cannot read fails requests, not the server.
            answers = self._choose(order, len(members), partial(self._those, members, rows, units, signals, order))
            if answers is None:
                COUNTS["failed"] += len(members)
                self._failed += [self._seen + i for i in members]
                # Rows there must be; where nobody can be told, they are the answer.
                none = torch.empty(0, dtype=torch.long)
                answers = [fill(none, None, n, order.count(n)) for n in (units[i].tokens for i in members)]
            for i, (kept, mix) in zip(members, answers, strict=True):
                out[i] = out[i][kept.to(out[i].device)]
                if mix is not None:
                    out[i] = torch.cat((mix.to(rows[i]) @ rows[i], out[i][:, -DIGITS:]), -1)
                COUNTS["chosen"] += 1
                COUNTS["kept"] += len(kept)
        self._seen += len(out)
        return tuple(out)

    def _choose(self, order: Order, many: int, asked: Callable[[], list[Asked]]) -> list[Choice] | None:
        """What each image keeps, exactly as many as its placeholders; None if the choice failed."""
        answers: list[Choice] | None = None
        try:
            answers = self._ask(order, asked())
        except Exception:
            # Whoever asked for it: the other requests of this batch, and of this server, must get their answers.
            then = "their requests end with an error" if self._reports else "they keep evenly spaced tokens instead"
            log.exception("Choosing failed among the tokens of %d images; %s", many, then)
        # What rank 0 chose: ranks must not differ by a rounding.
        return get_tp_group().broadcast_object(answers, 0) if get_tensor_model_parallel_world_size() > 1 else answers

    def _ask(self, order: Order, asked: list[Asked]) -> list[Choice]:
        assert order.cut is not None
        out: dict[int, Choice] = {}
        by_count: dict[int, list[int]] = defaultdict(list)
        for i, a in enumerate(asked):
            by_count[order.count(a.tokens)].append(i)
        for k, members in by_count.items():
            # A number, so that the count is the front end's, and a budget counts like a keep.
            for number, kept, mix in choose(
                replace(order.cut, keep=k, least=0, exact=False), [asked[i] for i in members]
            ):
                out[members[number]] = fill(kept, mix, asked[members[number]].tokens, k)
        return [out[i] for i in range(len(asked))]

    def _those(
        self, members: list[int], rows: list[Tensor], units: list[Unit], signals: Callable[[], Any], order: Order
    ) -> list[Asked]:
        return [self._asked(rows[i], units[i], signals()[i], order) for i in members]

    def _asked(self, rows: Tensor, unit: Any, signals: dict[str, Tensor], order: Order) -> Asked:
        fields: dict[str, Any] = {name: partial(signals.__getitem__, signal) for name, signal in TOWER.items()}
        at_encoder = order.cut is not None and order.cut.at == "encoder"
        fields["hidden_BND"] = fields["encoder_BNC"] if at_encoder else partial(self.states, rows)
        if order.question:
            # At once: under tensor parallelism all ranks look up together.
            text = self.language_model.embed_input_ids(torch.tensor(order.question, device=rows.device))
            fields["text_BTD"] = lambda: text
        return Asked(unit.tokens, unit.tokens, fields, unit.grid)

    def signals(self, recorder: Recorder, call: Any, units: list[Unit]) -> list[dict[str, Tensor]]:
        """What the tower says of each image, token by token."""
        found = recorder.signals()
        out: list[dict[str, Tensor]] = [{} for _ in units]
        for name in TOWER.values():
            if (rows := getattr(found, name)) is not None:
                # Tiles of one image lie together, so their pieces can be put together again.
                tokens = torch.cat(self.geometry.pack(self, "image", call, rows)).split([u.tokens for u in units])
                for at, x in zip(out, tokens, strict=True):
                    at[name] = x.squeeze(-1) if name.startswith("cls") else x
        return out

    def states(self, rows: Tensor) -> Tensor:
        """What the language model receives first: an image's rows without what is behind them."""
        return rows

    def units(self, call: Any) -> list[Unit]:
        """One unit an image: its tokens, and where they lie."""
        return self.geometry.units(self, "image", call)

    def recorder(self, reads: frozenset[str], first: bool = False) -> Recorder:
        """A recorder of the tower's last layer or of its first, for one encoder call."""
        raise NotImplementedError

    def _recorder(self, reads: frozenset[str]) -> Recorder | None:
        found = self.recorder(reads) if reads else None
        if found and "first_attn_BN" in reads:
            found.first = self.recorder(frozenset({"cls_attn_BN"}), first=True)
        return found

    # -- positions

    def _with_places(self, rows: Tensor, places: Tensor | None) -> Tensor:
        if places is not None and places.ndim == 1:
            places = places[:, None].expand(-1, 3)
        digits = rows.new_zeros(len(rows), DIGITS) if places is None else encode(places.to(rows.device), rows.dtype)
        return torch.cat((rows, digits), -1)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Any = None
    ) -> Any:
        """Takes the places off the rows, and remembers them for the forward pass that comes next."""
        self._places = None
        if multimodal_embeddings is not None and len(multimodal_embeddings):
            places = decode(torch.cat([e[:, -DIGITS:] for e in multimodal_embeddings]))
            self._places = torch.zeros(3, len(input_ids), dtype=torch.long, device=places.device)
            self._places[:, is_multimodal.to(places.device)] = places.T
            multimodal_embeddings = [copy_mm_embedding_modality(e, e[:, :-DIGITS]) for e in multimodal_embeddings]
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)  # type: ignore[misc]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Adds places to positions, in the runner's own buffer: captured graphs read that one."""
        places, self._places = self._places, None
        # The encoder's calls of this step are over.
        if self._reports and self._failed:
            failing.report(self._failed, self._seen)
        self._failed, self._seen = [], 0
        if intermediate_tensors is not None:
            # A later pipeline stage: they come with the states.
            places = intermediate_tensors[WIRE].T
        if places is not None:
            positions[:, : places.shape[1]] += places
        out = super().forward(input_ids, self.rope(positions), intermediate_tensors, inputs_embeds, **kwargs)  # type: ignore[misc]
        if isinstance(out, IntermediateTensors):
            wire = torch.zeros(positions.shape[1], 3, dtype=torch.long, device=positions.device)
            if places is not None:
                wire[: places.shape[1]] = places.T
            out.tensors[WIRE] = wire
        return out

    def rope(self, positions: Tensor) -> Tensor:
        """Positions as this decoder takes them."""
        return positions

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions of a prompt before anybody chose, and how far the next token lies beyond its number."""
        features = sorted(mm_features, key=lambda f: f.mm_position.offset)
        runs, grown = [], []
        for f in features:
            ranges = f.mm_position.extract_embeds_range()
            kept = sum(last + 1 - first for first, last in ranges)
            if KEY not in f.data:
                # A video, or an image that came encoded: whole, and without places on its rows.
                grown.append(0)
                continue
            runs.append(Run(ranges[0][0], kept, self.units(call_of(f.data))[0].tokens))
            grown.append(runs[-1].tokens - kept)
        ids, places = stretch(input_tokens, runs)
        whole = self.whole_positions(ids, shifted(features, grown))
        return whole[:, places], int(whole.max()) + 1 - len(input_tokens)

    def whole_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Tensor:
        """Positions of an unpruned prompt: [3, L]."""
        raise NotImplementedError


def wanted(order: Order) -> frozenset[str]:
    """What an order reads of the vision tower; at the encoder, its features are the tokens."""
    if order.cut is None:
        return frozenset()
    return (order.cut.select.reads & frozenset(TOWER)) | ({"encoder_BNC"} if order.cut.at == "encoder" else set())


def call_of(item: Any) -> dict[str, Any]:
    """An image's processed data, as the arguments of an encoder call of it alone."""
    return {name: field.data[None] for name, field in item.items() if name != KEY and isinstance(field.data, Tensor)}
