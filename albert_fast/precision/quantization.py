"""What to quantize, with which scales, and what the rest of the graph computes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch.export import ExportedProgram

from albert_fast.precision.scales import Scales, encoder_digest
from albert_fast.precision.sites import PARTS, Site, matches, sites

RESTS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Quantization:
    """How a program is quantized.

    Attributes:
        scales: of this encoder.
        parts: rows of ``sites.PARTS``.
        rest: precision of everything that is not quantized: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        keep: what stays in ``rest`` all the same: ends of tensors' names, with ``@pass`` or for all passes, such as
            ``"ffn_output.input@11"``. A weight that other passes read quantized stays quantized; its copy would cost
            what the file saves.
    Raises:
        ValueError: a part or ``rest`` is none of those.
    """

    scales: Scales
    parts: tuple[str, ...] = ("encoder",)
    rest: str = "fp32"
    keep: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"parts is {', '.join(self.parts) or 'empty'}, expected some of {', '.join(PARTS)}")
        if self.rest not in RESTS:
            raise ValueError(f"rest is {self.rest!r}, expected one of {', '.join(RESTS)}")

    def sites(self, program: ExportedProgram) -> list[Site]:
        """The sites of a captured float32 program that are quantized, each of which the scales have a range for.

        Raises:
            ValueError: the scales are another encoder's, lack a tensor or a pass, a pattern of ``keep`` names nothing,
                or nothing is left to quantize.
        """
        asked = [site for site in sites(program) if site.part in self.parts]
        chosen = [site for site in asked if not matches(site, self.keep)]
        idle = [pattern for pattern in self.keep if not any(matches(site, (pattern,)) for site in asked)]
        if idle:
            raise ValueError(
                f"keep names {', '.join(idle)}, which no quantized tensor is called; names are "
                f"{', '.join(dict.fromkeys(site.tensor for site in asked))}, or ends of them, and @pass"
            )
        if not chosen:
            raise ValueError(
                f"nothing is left to quantize of {', '.join(self.parts)} in this graph"
                + ("; attention is quantized in a graph of attention='eager'" if "attention" in self.parts else "")
            )
        if self.scales.model != encoder_digest(program):
            raise ValueError(
                "these scales are of another model: they were found on an encoder with other weights; "
                "calibrate this one"
            )
        missing = [site.place for site in chosen if len(self.scales.amax.get(site.tensor, ())) <= site.pass_index]
        if missing:
            places = ", ".join(dict.fromkeys(missing))
            raise ValueError(
                f"the scales have no range for {places}; calibrate with this head and these parts, or leave them out"
            )
        return chosen
