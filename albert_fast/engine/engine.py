"""Engine: a callable ``Batch -> dict of tensors``, whatever it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile, check_inputs, hull, smallest_fitting
from albert_fast.config import AlbertConfig
from albert_fast.engine import asked, shapes
from albert_fast.engine.formats import Run
from albert_fast.engine.manifest import Manifest, TensorSpec


class Engine:
    """A compiled or captured ALBERT, ready to run. Any thread may call it.

    Attributes:
        config, head, format, device: what it is and where it runs.
        profiles: the shapes it was built for; ``profile`` spans them all.
        outputs: names, dtypes and dimensions of what a call returns, in order.
        ids_rank: dimensions of ``input_ids``: 2, or 3 (``[batch, choices, length]``) for multiple choice.
        max_choices: most choices per row that a graph of rank 3 was captured for; None where any number will do.
        manifest: of the engine file; None for an engine that lives in this process only.
        cutting: what cutting a batch of mixed lengths costs, so that little padding is computed; None: batches that fit
            a profile run as they are.
        num_threads: how many threads a call computes with; None: as many as torch has, see ``engine.threads``.
    """

    def __init__(
        self,
        run: Run,
        *,
        config: AlbertConfig,
        head: str,
        format: str,
        device: str,
        profiles: tuple[ShapeProfile, ...],
        outputs: tuple[TensorSpec, ...],
        ids_rank: int,
        max_choices: int | None = None,
        manifest: Manifest | None = None,
        cutting: shapes.Cutting | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._run = run
        self.config = config
        self.head = head
        self.format = format
        self.device = device
        self.profiles = profiles
        self.profile = hull(profiles)
        self.outputs = outputs
        self.ids_rank = ids_rank
        self.max_choices = max_choices
        self.manifest = manifest
        self.cutting = cutting
        self.num_threads = num_threads

    @property
    def output_names(self) -> tuple[str, ...]:
        """Keys of what a call returns, in order."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def asked(self) -> bool:
        """Whether scores over the vocabulary are those at asked positions alone, see ``Batch.asked``."""
        return any(asked.per_asked(spec) for spec in self.outputs)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Run a batch of any number of rows.

        A batch with more rows than the largest profile is sorted by length and runs in pieces; one that is smaller than
        the smallest is filled up. A batch that fits a profile runs as it is, unless it holds so much padding that the
        pieces cost less (``cutting``): rows do not depend on each other, so answers at text stay the same, up to the
        order of additions. See ``engine.shapes``. Rows come back in the caller's order.

        Args:
            batch: ids int64 or int32, ``[batch, length]`` (multiple choice ``[batch, choices, length]``), on any
                device; the mask in any dtype, nonzero where there is text. Missing parts are filled in. ``asked``
                is for engines that answer at asked positions alone, see ``asked`` here; None asks for all text.
        Returns:
            Outputs by name, float32 in every precision that ``export`` offers, on the engine's device. They need no
            gradient. Per-token outputs mean nothing where there is no text: they are what the graph makes of padding,
            or 0 where the batch ran in pieces and a place lies behind its piece's longest text. Outputs at asked
            positions are ``[asked, vocab_size]``, in row-major order of ``Batch.asked``: ``whole[batch.asked]``.
        Raises:
            ValueError: texts longer than the profile, ids outside the vocabulary, a wrong dtype or rank; all problems
                at once, before any work is done.
        """
        self._check(batch)
        ids, mask, types = batch.tensors()
        with torch.inference_mode():
            inputs = (
                ids.to(self.device, torch.int64).contiguous(),
                (mask != 0).to(self.device, torch.int64).contiguous(),
                types.to(self.device, torch.int64).contiguous(),
            )
            pieces = self._pieces(inputs[1], padded=batch.attention_mask is not None)
            if self.asked:
                return asked.answer(self._run, inputs, batch.asked_or_text().to(self.device), self.outputs, pieces)
            if pieces is None:
                outputs = self._run(*inputs)
                return {spec.name: outputs[spec.name] for spec in self.outputs}
            answers = [(one, self._run(*(shapes.cut(t, one).contiguous() for t in inputs))) for one in pieces]
            return shapes.join(answers, self.outputs, ids.shape[0], ids.shape[-1])

    def __repr__(self) -> str:
        profiles = ",".join(str(profile) for profile in self.profiles)
        threads = "" if self.num_threads is None else f", num_threads={self.num_threads}"
        return f"Engine({self.head!r}, format={self.format!r}, device={self.device!r}, profile={profiles!r}{threads})"

    def _pieces(self, mask: Tensor, *, padded: bool) -> list[shapes.Piece] | None:
        """What a batch is cut into; None where it runs as it is."""
        rows, length = mask.shape[0], mask.shape[-1]
        if smallest_fitting(self.profiles, rows, length) is not None:
            if self.cutting is None or not padded:
                return None
            return shapes.plan_if_it_pays(mask, self.profiles, self.cutting)
        lengths = shapes.text_lengths(mask)
        if self.cutting is None:
            return shapes.plan(lengths, self.profiles)
        choices = mask.shape[1] if mask.dim() == 3 else 1
        return shapes.plan_cheapest(lengths, length, self.profiles, self.cutting, choices=choices)

    def _check(self, batch: Batch) -> None:
        if not isinstance(batch, Batch):
            raise ValueError(f"an engine takes an albert_fast.Batch, found a {type(batch).__name__}")
        ids = batch.input_ids
        if not isinstance(ids, Tensor):
            raise ValueError(f"input_ids is a {type(ids).__name__}, expected a torch.Tensor; torch.as_tensor makes one")
        if ids.dim() != self.ids_rank:
            shapes = {2: "[batch, length]", 3: "[batch, choices, length]"}
            raise ValueError(
                f"input_ids has shape {list(ids.shape)}, expected {shapes[self.ids_rank]} for the head {self.head!r}"
            )
        for name in ("attention_mask", "token_type_ids"):
            part = getattr(batch, name)
            if part is not None and (not isinstance(part, Tensor) or part.shape != ids.shape):
                found = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(f"{name} is {found}, expected a tensor of the shape of input_ids, {list(ids.shape)}")
        if batch.asked is not None:
            self._check_asked(batch.asked, ids)
        problems = []
        for check in (self._check_values, self._check_profile):
            try:
                check(batch)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))

    def _check_asked(self, places: object, ids: Tensor) -> None:
        if not isinstance(places, Tensor) or places.shape != ids.shape or places.dtype != torch.bool:
            found = f"{places.dtype} {list(places.shape)}" if isinstance(places, Tensor) else type(places).__name__
            raise ValueError(f"asked is {found}, expected torch.bool of the shape of input_ids, {list(ids.shape)}")
        if not self.asked:
            raise ValueError(
                "the batch asks at some positions, and this engine answers for every token: leave asked out and take "
                "the rows of its answers, or export an engine with --positions asked"
            )

    def _check_values(self, batch: Batch) -> None:
        flat = [
            part.flatten(0, -2) if part is not None and part.dim() == 3 and part.numel() else part
            for part in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        ]
        check_inputs(
            input_ids=flat[0], attention_mask=flat[1], token_type_ids=flat[2], vocab_size=self.config.vocab_size,
            max_position_embeddings=self.config.max_position_embeddings, type_vocab_size=self.config.type_vocab_size,
            embedding_size=self.config.embedding_size,
        )  # fmt: skip

    def _check_profile(self, batch: Batch) -> None:
        shape = batch.input_ids.shape
        if 0 in shape:
            return  # _check_values has told
        if self.max_choices is not None and self.ids_rank == 3 and shape[1] > self.max_choices:
            raise ValueError(f"there are {shape[1]} choices, the engine takes at most {self.max_choices}; split them")
        if shape[-1] > self.profile.max_length:
            raise ValueError(
                f"length {shape[-1]} is beyond {self.profile.max_length} of the engine's profile {self.profile}; "
                "truncate the texts, or export an engine with a longer --profile"
            )
