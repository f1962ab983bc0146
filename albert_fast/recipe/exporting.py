"""export: the one function that walks all floors, from a checkpoint to an engine file that has been proved."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from albert_fast import checkpoint
from albert_fast import engine as engines
from albert_fast.batch import ShapeProfile, hull
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import Facts, Manifest, files, machine, manifest_path
from albert_fast.engine.comparing import compared
from albert_fast.engine.formats import ENGINE_FILE
from albert_fast.engine.measure import exceeded
from albert_fast.errors import EngineError, MissingDependencyError
from albert_fast.heads import HEADS, head_of
from albert_fast.pipelines.sources import tokenizer_folder
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.recipe import quantizing
from albert_fast.recipe.overflow import too_large
from albert_fast.recipe.references import answers, reference_batches
from albert_fast.recipe.reporting import page_of, report_file
from albert_fast.recipe.scaling import scale
from albert_fast.recipe.words import Recipe

if TYPE_CHECKING:
    from albert_fast.pretrained import AlbertPreTrainedModel

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""

_LABELLED = ("sequence-classification", "token-classification")


@dataclass(frozen=True)
class Source:
    """A model to make an engine of, wherever it comes from.

    Attributes:
        model: float32, in ``eval`` mode, of a class of ``HEADS``; with ``attn_implementation="eager"``, the definition.
        sha256: of its weights.
        name: what the manifest calls it; None for a live model.
        tokenizer: that goes beside the engine file, or None.
    """

    model: AlbertPreTrainedModel
    sha256: str
    name: str | None = None
    tokenizer: Any = None


def export(recipe: Recipe, progress: Progress | None = None) -> Manifest:
    """Build the engine that a recipe asks for, prove it, and write it with its manifest and tokenizer.

    The engine lies at ``recipe.output``, its manifest beside it, in ``<engine file>.tokenizer`` the tokenizer, if the
    checkpoint has one, in ``<engine file>.scales.json`` scales that were found on the way, and in
    ``<engine file>.html`` a report of what a quantized engine's precision does. They appear together, after the file
    has been loaded and found within the error budget of its precision; where anything fails, what lay there before
    stays as it was. A format whose files run on a device that is missing here is measured on what its row offers
    instead; ``manifest.measured_on`` says what that was.

    Args:
        progress: told the name of every stage as it begins.
    Raises:
        CheckpointError, EngineError, ValueError, MissingDependencyError: what is wrong and what to do about it.
    """
    tell = progress or (lambda stage: None)
    check_device(recipe)
    quantizing.read_scales(recipe.quantize)
    tell(f"loading {recipe.model}")
    source = source_of(recipe)
    output = recipe.output_for(head_of(source.model))
    _check_output(output)
    return export_source(source, recipe, output, tell)


def source_of(recipe: Recipe) -> Source:
    """The checkpoint that a recipe names, as a model on the recipe's device where this machine has it."""
    loaded = checkpoint.load(recipe.model, revision=recipe.revision)
    head = recipe.head or head_of_checkpoint(loaded.config, recipe.model)
    model = HEADS[head].model_class.from_checkpoint(loaded, attn_implementation="eager")
    return Source(model, loaded.sha256, recipe.model, _tokenizer(loaded.folder))


def export_source(source: Source, recipe: Recipe, output: Path, tell: Progress) -> Manifest:
    """``export`` for a model that is there already; ``recipe.model``, ``head`` and ``output`` are not looked at."""
    device, config, head = recipe.device_name, source.model.config, head_of(source.model)
    here = machine.has_device(device)
    eager = _on(source.model, device if here else "cpu")
    attention = quantizing.attention_of(recipe.quantize, recipe.attention)
    profiles = recipe.profiles or (_widest(config),)
    tell("capturing the graph")
    asked = recipe.positions == "asked"
    exact = capture(with_attention(eager, attention), hull(profiles), asked=asked)
    batches = [batch for p in profiles for batch in reference_batches(config, head, p, source.tokenizer)]
    seen, row, words = with_attention(eager, attention), engines.FORMATS[recipe.format], recipe.quantize
    rest = recipe.precision if words is None else quantizing.rest_of(row, words.rest, device)
    large = too_large(recipe, rest, exact, batches, seen, source.tokenizer, tell)
    kept_float32 = tuple(dict.fromkeys((*recipe.keep_float32, *large)))
    scaled = None
    if words is not None:
        scaled = scale(words, seen, source.tokenizer, rest=rest, keep_float32=kept_float32, tell=tell)
    chosen = scaled.quantization if scaled is not None else None
    program = prepare(exact, recipe.precision, keep_float32=kept_float32, quantization=chosen)

    tell("answering the fixed batch in float32 eager")
    references = answers(eager, batches, asked=asked)
    del eager

    facts = Facts(
        config=config.to_dict(),
        head=head,
        attention=attention,
        precision=recipe.precision,
        profiles=profiles,
        checkpoint_sha256=source.sha256,
        checkpoint_source=source.name,
        labels=tuple(config.id2label.values()) if head in _LABELLED else (),
        scales_digest=chosen.scales.digest if chosen is not None else None,
    )
    budget = PRECISIONS[recipe.precision].budget
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.pending(output) as hidden:
        # build locks the folder that it writes to, and hidden's own is locked already
        temporary = hidden.parent / "built" / hidden.name
        temporary.parent.mkdir()
        manifest = engines.build(
            program, temporary, format=recipe.format, facts=facts, references=references, budget=budget,
            device=device, options=recipe.options, progress=tell,
        )  # fmt: skip
        if manifest.measured_on == ENGINE_FILE:
            tell("verifying the file as it will be loaded")
            _verify(temporary, device, references, manifest)
        kept = tokenizer_folder(output) if source.tokenizer is not None else None
        notes = {**manifest.notes, "tokenizer": kept and kept.name}
        if kept_float32:
            notes["float32"] = {name: large.get(name) for name in kept_float32}
        if scaled is not None:
            notes["quantization"] = quantizing.notes(scaled.quantization)
            if scaled.mixed is not None:
                notes["quantization"]["search"] = scaled.mixed.to_dict()
            if scaled.statistics is not None:
                scaled.quantization.scales.save(scales_file(temporary))
        manifest = dataclasses.replace(manifest, notes=notes)
        if source.tokenizer is not None:
            source.tokenizer.save_pretrained(tokenizer_folder(temporary))
        if scaled is not None and recipe.quantize is not None and recipe.quantize.report:
            tell("writing the report")
            html = page_of(
                scaled, manifest, model=source.name or type(source.model).__name__, keep_float32=kept_float32
            )
            if html is not None:
                report_file(temporary).write_text(html, encoding="utf-8")
        _publish(temporary, output, manifest)
    return manifest


def _verify(path: Path, device: str, references: list[Any], manifest: Manifest) -> None:
    """Load the file as a user will, and measure it once more."""
    engine = engines.load(path, device=device)
    budget = PRECISIONS[manifest.precision].budget
    found = [engine(batch) for batch, _ in references]
    skips_padding = engines.FORMATS[manifest.format].skips_padding
    error = compared(
        found, references, manifest.outputs, skips_padding=skips_padding, cuts=engine.cutting is not None,
        tie=budget.mean_abs,
    )  # fmt: skip
    beyond = exceeded(error, budget)
    if beyond:
        raise EngineError(f"the loaded engine is beyond the error budget of {manifest.precision}: {'; '.join(beyond)}")


def _on(model: AlbertPreTrainedModel, device: str) -> AlbertPreTrainedModel:
    """The model itself, or a copy on another device: the caller's own stays where it is."""
    return model if model.device == torch.device(device) else copy.deepcopy(model).to(device)


def check_device(recipe: Recipe) -> None:
    """Refuse a device or package that is missing here before the checkpoint is loaded.

    Raises:
        MissingDependencyError: the format's extra is not installed.
        ValueError: there is no such device here, and the format cannot be written without it.
    """
    device, row = recipe.device_name, engines.FORMATS[recipe.format]
    machine.check_device_name(device)
    missing = row.missing()
    if missing is not None:
        raise MissingDependencyError(missing)
    if row.builds_without_device or machine.has_device(device):
        return
    if "cpu" in row.devices:
        machine.require_device(device)
    without = [one.name for one in engines.FORMATS.values() if one.builds_without_device]
    raise ValueError(
        f"{row.name} is built on the CUDA device that will run it, and torch {torch.__version__} finds none here; run "
        f"this on a machine with a GPU, or choose a format that can be built without one: {', '.join(without)}"
    )


def _check_output(output: Path) -> None:
    """Refuse a place that cannot be written before any work is done."""
    if output.is_dir():
        raise ValueError(f"the output {output} is a folder; name the engine file, for example {output / 'engine.pt2'}")
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"the output {output} cannot be written: {parent} is no folder that you may write to")


def head_of_checkpoint(config: AlbertConfig, model: str) -> str:
    """The head that the checkpoint was saved with, by its config's ``architectures``."""
    names = [str(name) for name in config.extra.get("architectures") or []]
    found = [name for name, head in HEADS.items() if head.model_class.__name__ in names]
    if len(found) != 1:
        raise ValueError(
            f"the config of {model} does not say which head its weights are for (architectures: {names}); name one "
            f"with --head or head = ..., one of {', '.join(HEADS)}"
        )
    return found[0]


def with_attention(model: AlbertPreTrainedModel, attention: str) -> AlbertPreTrainedModel:
    """A model over the same weights with another attention implementation."""
    with torch.device("meta"):
        twin = type(model)(model.config, attn_implementation=attention)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    return twin.eval()


def _widest(config: AlbertConfig) -> ShapeProfile:
    longest = config.max_position_embeddings
    return ShapeProfile(1, 8, 32, 1, min(128, longest), longest)


def _tokenizer(folder: Path) -> Any:
    """The tokenizer that lies with the checkpoint, or None where there is none."""
    from albert_fast.tokenizer import AlbertTokenizer

    if not any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file():
        return None
    return AlbertTokenizer.from_pretrained(folder)


def scales_file(output: Path) -> Path:
    """Where the scales lie that an export has found on calibration text."""
    return output.with_name(f"{output.name}.scales.json")


def _publish(temporary: Path, output: Path, manifest: Manifest) -> None:
    """Move the engine file, its tokenizer and its manifest into place; without its manifest nothing is loaded."""
    manifest_path(output).unlink(missing_ok=True)
    for beside in (scales_file, report_file):
        if beside(temporary).exists():
            os.replace(beside(temporary), beside(output))
    new, place = tokenizer_folder(temporary), tokenizer_folder(output)
    if place.exists():
        os.replace(place, new.with_name(new.name + ".old"))  # goes with the temporary folder
    if new.exists():
        os.replace(new, place)
    files.commit(temporary, output, manifest.to_json())
