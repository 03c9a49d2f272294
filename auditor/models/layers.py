"""Which modules the user means by ``--layers``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules import activation as torch_activations

from auditor.errors import ModelError, OptionError, unknown_name

PRESETS = ("activations", "blocks")

_NOT_NONLINEARITIES = ("Softmax", "Softmax2d", "Softmin", "LogSoftmax", "MultiheadAttention")
_TORCH_ACTIVATIONS = tuple(
    kind
    for name in torch_activations.__all__
    if name not in _NOT_NONLINEARITIES and isinstance(kind := getattr(torch_activations, name), type)
)
_ACTIVATION_NAME = re.compile(
    r"(relu\d?|gelu|gelutanh|silu|swish|mish|[sc]?elu|tanh|hardtanh|softplus|softsign|sigmoid)(me|jit|jitme)?$", re.I
)
_GATE_NAME = re.compile(r"(hard_?)?sigmoid(me|jit|jitme)?$", re.I)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Selection:
    """Names of modules, and how firmly they were asked for.

    Parameters
    ----------
    layers : frozenset of str
        Every selected module.
    named : frozenset of str
        Those given by their full name: not measurable is an error. Others are passed over.
    preset : frozenset of str
        Those that only a preset selected: what makes the logits is left out.
    activations : bool
        Whether the preset ``activations`` is meant too, which takes nonlinearities that are functions as well. Those
        show only while the model runs.
    """

    layers: frozenset[str]
    named: frozenset[str]
    preset: frozenset[str]
    activations: bool = False


def select_layers(module: nn.Module, layers: str | Sequence[str]) -> Selection:
    """Find the modules that `layers` means.

    Parameters
    ----------
    module : nn.Module
        The model.
    layers : str or sequence of str
        One or several of: a preset (``"activations"``, ``"blocks"``), a module's name, a glob over names
        (``"layer4.*"``; ``*`` crosses dots), ``"re:REGEX"`` (the whole name must match), ``"type:CLASS"`` (a class
        name, also of a base class). A preset's word means the preset even where a module has that name, as in timm's
        ViT; ``"re:blocks"`` means the module.

    Raises
    ------
    UnknownNameError
        If a name or pattern matches no module.
    ModelError
        If the preset ``blocks`` finds nothing in this model.
    OptionError
        If nothing is asked for, or a regular expression is wrong.
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise OptionError("No layers were named.", wanted=f"{', '.join(PRESETS)}, or names, globs, re:..., type:...")
    names = {name: child for name, child in module.named_modules() if name}
    aliases = _aliases(module)
    preset: set[str] = set()
    named: set[str] = set()
    matched: set[str] = set()
    for text in wanted:
        if text == "activations":
            preset |= activation_layers(module)
        elif text == "blocks":
            preset |= block_layers(module)
        elif text in aliases:
            named.add(aliases[text])
        else:
            found = _match(text, names)
            if not found:
                raise unknown_name("layer", text, aliases, fix="`auditor layers --model MODEL` lists them.")
            matched |= found
    return Selection(
        layers=frozenset(preset | named | matched),
        named=frozenset(named),
        preset=frozenset(preset - named - matched),
        activations="activations" in wanted,
    )


def activation_layers(module: nn.Module) -> set[str]:
    """Names of all modules that apply a nonlinearity, gates among them.

    These are torch's own activation modules, and modules without children whose class name ends in an activation's
    (timm's and one's own: ``QuickGELU``, ``StarReLU``, ``HardSwishMe``). Softmax and attention are not nonlinearities
    of units.
    """
    return {name for name, child in module.named_modules() if name and is_nonlinearity(child)}


def is_nonlinearity(module: nn.Module) -> bool:
    """Tell whether `module` is a nonlinearity, see :func:`activation_layers`."""
    kind = type(module)
    if not _is_leaf(module) or kind.__name__ in _NOT_NONLINEARITIES:
        return False
    return isinstance(module, _TORCH_ACTIVATIONS) or _ACTIVATION_NAME.search(kind.__name__) is not None


def is_gate(name: str) -> bool:
    """Tell whether the nonlinearity of this name (a class's, a function's) is a sigmoid.

    Sigmoids are taken for gates: in squeeze-and-excitation and its kin they weigh other units' outputs.
    """
    return _GATE_NAME.search(name) is not None


def block_layers(module: nn.Module) -> set[str]:
    """Names of the building blocks whose outputs follow each other: residual blocks, transformer blocks.

    A block is the outermost module with children and parameters inside an ``nn.Sequential``, ``nn.ModuleList`` or
    ``nn.ModuleDict``; normalisations with an activation inside do not count. A stage, which is a module that keeps
    modules with children in just one container, and nothing else there, is not a block; its blocks are. Other layouts
    need names or globs.

    Raises
    ------
    ModelError
        If there are none.
    """
    found = set(_blocks(module, "", inside=False))
    if not found:
        raise ModelError(
            f"{type(module).__name__} has no recognisable blocks.",
            wanted="modules with children in an nn.Sequential or nn.ModuleList",
            fix="Name the layers to be measured with --layers.",
        )
    return found


def _blocks(module: nn.Module, name: str, *, inside: bool) -> Iterator[str]:
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if _is_leaf(child) or isinstance(child, _NORMS) or next(child.parameters(), None) is None:
            continue
        if isinstance(child, _CONTAINERS):
            yield from _blocks(child, path, inside=True)
        elif not inside or _is_stage(child):
            yield from _blocks(child, path, inside=False)
        else:
            yield path


def _is_stage(module: nn.Module) -> bool:
    groups = [list(child.children()) for child in module.children() if isinstance(child, _CONTAINERS)]
    groups = [members for members in groups if not all(_is_leaf(member) for member in members)]
    if len(groups) != 1:
        return False
    return not any(_is_leaf(member) or isinstance(member, _CONTAINERS) for member in groups[0])


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _aliases(module: nn.Module) -> dict[str, str]:
    """Every name of every module, also the second ones of modules used twice, to its first name."""
    first = {id(child): name for name, child in module.named_modules() if name}
    every = module.named_modules(remove_duplicate=False)
    return {name: first[id(child)] for name, child in every if id(child) in first}


def _match(text: str, names: dict[str, nn.Module]) -> set[str]:
    if text.startswith("re:"):
        try:
            pattern = re.compile(text.removeprefix("re:"))
        except re.error as error:
            raise OptionError(f"{text!r} is not a regular expression: {error}.") from error
        return {name for name in names if pattern.fullmatch(name)}
    if text.startswith("type:"):
        wanted = text.removeprefix("type:")
        return {name for name, child in names.items() if wanted in _class_names(type(child))}
    return set(fnmatch.filter(names, text))


def _class_names(kind: type) -> Iterable[str]:
    return (base.__name__ for base in kind.__mro__)
