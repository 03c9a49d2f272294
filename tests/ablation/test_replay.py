"""Models that resist being replayed in parts: the exact engine agrees with hooks by hand, or falls back to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ablations import (
    Net,
    assert_same,
    assert_untouched,
    by_engine,
    by_hand,
    calibrated,
    jobs_of,
    largest,
    pictures,
    seeded,
    state_of,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from auditor.ablation import CaptumEngine, ExactEngine, HookEngine, group_logits
from auditor.ablation.edits import Clamp, Edit, Mean, Noise, Resample, Zero
from auditor.ablation.plan import SitePlan
from auditor.errors import ModelError
from auditor.models import probe_sites
from auditor.units import Site

Build = Callable[[], nn.Module]
CASES: dict[str, tuple[Build, str | list[str], set[str]]] = {}


def case(name: str, layers: str | list[str] = "activations", falls_back: set[str] | None = None) -> Any:
    """Add a model to the table, with the layers of its sites and the sites at which it is not replayed."""

    def add(build: Build) -> Build:
        CASES[name] = build, layers, falls_back or set()
        return build

    return add


def conv(inputs: int = 3, outputs: int = 4, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def norm(width: int = 4) -> nn.BatchNorm2d:
    """A batch norm that does something."""
    made = nn.BatchNorm2d(width)
    nn.init.normal_(made.weight, 1, 0.3)
    nn.init.normal_(made.bias)
    nn.init.normal_(made.running_mean)
    nn.init.uniform_(made.running_var, 0.5, 2)
    return made


def tail(net: Any, x: Tensor) -> Tensor:
    return net.fc(x.mean((2, 3)))


# --- views, changes in place and memory layouts ----------------------------------------------------------------------


@case("an in-place ReLU whose input is used again", falls_back={"act"})
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x)
        return tail(net, h + net.conv2(net.act(h)).tanh())

    return Net(run, conv=conv(), act=nn.ReLU(inplace=True), conv2=conv(4), fc=nn.Linear(4, 3))


@case("an in-place ReLU beside the site whose input is used again", falls_back={"act", "act2"})
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x)
        g = net.act(h)
        return tail(net, h * net.act2(net.conv2(x)) + g)

    return Net(run, conv=conv(), act=nn.ReLU(inplace=True), conv2=conv(), act2=nn.ReLU(), fc=nn.Linear(4, 3))


@case("an addition in place to what does not depend on the site")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x)
        h += net.act(net.conv2(x))
        return tail(net, net.act2(h))

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(), act2=nn.ReLU(inplace=True), fc=nn.Linear(4, 3))


@case("a site changed in place after a convolution read it")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        y = net.conv2(h)
        h += 1
        return tail(net, (h + y).tanh())

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), fc=nn.Linear(4, 3))


@case("a site changed in place before a convolution reads it")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        h[:, :, 0] = 0
        return tail(net, net.conv2(h).tanh())

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), fc=nn.Linear(4, 3))


def _normalise_in_place(net: Any, x: Tensor) -> Tensor:
    x -= 1.0
    h = net.act(net.conv(x))
    return tail(net, h + net.conv2(x).tanh() + x.mean((1, 2, 3), keepdim=True))


@case("a picture that is normalised in place")
def changes_its_input() -> nn.Module:
    return Net(_normalise_in_place, conv=conv(), act=nn.ReLU(), conv2=conv(), fc=nn.Linear(4, 3))


@case("a picture that is changed in place and then asked for its length")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x -= 1.0
        return net.fc(net.act(net.conv(x)).mean(3).reshape(len(x), -1))

    return Net(run, conv=conv(), act=nn.ReLU(), fc=nn.Linear(4 * 16, 3))


@case("maps that are flattened by a view")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.fc(net.act2(net.conv2(net.act(net.conv(x)))).view(len(x), -1))

    modules = {"conv": conv(), "act": nn.ReLU(), "conv2": conv(4), "act2": nn.ReLU()}
    return Net(run, **modules, fc=nn.Linear(4 * 256, 3))


class Patches(nn.Module):
    """Tokens whose memory is laid out as maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)).flatten(2).transpose(1, 2)


@case("tokens that are turned back to maps by a view", layers=["tokens", "tokens.act", "more.act"])
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        t, h = net.tokens(x), net.more(x)
        return net.fc((h * t).tanh().flatten(1) + t.transpose(1, 2).view(len(x), -1))

    return Net(run, tokens=Patches(), more=Patches(), fc=nn.Linear(128, 3))


@case("an identity whose input is used again", layers="same")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x)
        return tail(net, net.same(h) * h.sigmoid() + net.conv2(h).tanh())

    return Net(run, conv=conv(), same=nn.Dropout(), conv2=conv(4), fc=nn.Linear(4, 3))


# --- calls -----------------------------------------------------------------------------------------------------------


def _loop(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    for _ in range(3):
        h = net.cell(h)
    return tail(net, h)


@case("a cell in a loop")
def recurrent() -> nn.Module:
    return Net(_loop, conv=conv(), cell=nn.Sequential(conv(4), nn.ReLU(inplace=True)), fc=nn.Linear(4, 3))


@case("a container in a loop", layers="cell")
def _() -> nn.Module:
    return Net(_loop, conv=conv(), cell=nn.Sequential(conv(4), nn.ReLU(inplace=True)), fc=nn.Linear(4, 3))


@case("a loop that remembers")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        inputs = net.act(net.conv(x)).flatten(2).transpose(1, 2)
        outputs, (_, memory) = net.lstm(inputs)
        return net.fc(net.act2(net.more(outputs[:, -1])) + memory[-1])

    lstm = nn.LSTM(8, 6, batch_first=True)
    return Net(run, conv=nn.Conv2d(3, 8, 4, 4), act=nn.ReLU(), lstm=lstm, more=nn.Linear(6, 6), act2=nn.Tanh(),
               fc=nn.Linear(6, 3))  # fmt: skip


@case("blocks as sites", layers="blocks")
def _() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm, self.conv2 = conv(4), norm(), conv(4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv2(functional.relu(self.norm(self.conv1(x))))

    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.blocks(net.stem(x)))

    return Net(run, stem=conv(), blocks=nn.Sequential(Block(), Block(), Block()), fc=nn.Linear(4, 3))


@case("a module whose forward is also used directly")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act.forward(net.conv2(x)) * net.act(net.conv(x)))

    return Net(run, conv=conv(), conv2=conv(), act=nn.ReLU(), fc=nn.Linear(4, 3))


@case("arguments that are named")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act2(net.conv2(input=net.act(input=net.conv(input=x)))))

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), act2=nn.GELU(), fc=nn.Linear(4, 3))


@case("torch's transformer layers, which pass their submodules by where they can")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.fc(net.encoder(net.patch(x).flatten(2).transpose(1, 2)).mean(1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=nn.GELU())
        return Net(run, patch=nn.Conv2d(3, 8, 4, 4), encoder=nn.TransformerEncoder(layer, 2), fc=nn.Linear(8, 3))


@case("layers that are checkpointed")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, checkpoint(net.block, net.act(net.conv(x)), use_reentrant=False))

    return Net(run, conv=conv(), act=nn.ReLU(), block=nn.Sequential(conv(4), nn.ReLU()), fc=nn.Linear(4, 3))


# --- outputs that are no single tensor, or have no row for each image ------------------------------------------------


class Pair(nn.Module):
    """Returns two tensors, packed."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.act, self.pack = conv(4), nn.ReLU(), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(x * 2, self.act(self.conv(x)))


def _pairs(pack: Callable[[Tensor, Tensor], Any], unpack: Callable[[Any], tuple[Tensor, Tensor]]) -> Build:
    def run(net: Any, x: Tensor) -> Tensor:
        (a, b), (c, d) = unpack(net.pair(net.act(net.conv(x)))), unpack(net.pair2(net.conv2(x)))
        return tail(net, net.act3(net.conv3(a + b + c * d)))

    def build() -> nn.Module:
        modules = {"pair": Pair(pack), "pair2": Pair(pack), "conv": conv(), "conv2": conv(), "conv3": conv(4)}
        return Net(run, **modules, act=nn.ReLU(), act3=nn.ReLU(), fc=nn.Linear(4, 3))

    return build


case("tuples")(_pairs(lambda a, b: (a, b), lambda made: made))
case("lists")(_pairs(lambda a, b: [a, b], lambda made: (made.pop(0), made.pop())))
case("dictionaries")(_pairs(lambda a, b: {"a": a, "b": b}, lambda made: (made["a"], made["b"])))
case("tuples in tuples")(_pairs(lambda a, b: (a, (b, [])), lambda made: (made[0], made[1][0])))


def windows(x: Tensor, size: int) -> Tensor:
    rows, height, width, channels = x.shape
    split = x.view(rows, height // size, size, width // size, size, channels)
    return split.transpose(2, 3).reshape(-1, size * size, channels)


def whole(x: Tensor, size: int, height: int) -> Tensor:
    n = height // size
    return x.view(-1, n, n, size, size, x.shape[-1]).transpose(2, 3).reshape(-1, height, height, x.shape[-1])


@case("windows that take the place of images")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x)).permute(0, 2, 3, 1)
        for size, mix in ((4, net.mix4), (2, net.mix2)):
            parts = windows(net.norm(h), size)
            h = h + whole(mix(parts).softmax(1) * parts, size, 8)
        return net.fc((h + net.fc2(net.act2(net.fc1(h)))).mean((1, 2)))

    linear = {name: nn.Linear(*shape) for name, shape in
              {"mix4": (8, 8), "mix2": (8, 8), "fc1": (8, 16), "fc2": (16, 8), "fc": (8, 3)}.items()}  # fmt: skip
    return Net(run, conv=nn.Conv2d(3, 8, 2, 2), act=nn.GELU(), norm=nn.LayerNorm(8), act2=nn.GELU(), **linear)


@case("images that are stacked in another order", layers="act")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        plain, mirrored = net.stem(torch.cat([x, x.flip(3)])).chunk(2)
        return tail(net, plain + 2 * mirrored + net.act(net.conv(x)))

    return Net(run, stem=nn.Sequential(conv(), nn.Tanh()), conv=conv(), act=nn.ReLU(), fc=nn.Linear(4, 3))


class Table(nn.Module):
    """Computes the same, whatever the images."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 8)
        self.register_buffer("table", torch.randn(*shape, 2))

    def forward(self) -> Tensor:
        return self.linear(self.table)


for rows in ((), (1,), (2,), (4,), (3,)):

    @case(f"a table with {rows[0] if rows else 'no'} rows that no image changes")
    def _(rows: tuple[int, ...] = rows) -> nn.Module:
        def run(net: Any, x: Tensor) -> Tensor:
            table = net.table()
            h = net.act(net.conv(x)).flatten(2).transpose(1, 2)
            return net.fc((h + (table.mean(0) if rows else table)).tanh().mean(1))

        return Net(run, conv=nn.Conv2d(3, 8, 4, 4), act=nn.GELU(), table=Table(*rows, 16), fc=nn.Linear(8, 3))


@case("weights that a network makes")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        weight = net.maker(torch.ones(1, 3)).view(4, 4, 1, 1)
        return tail(net, functional.conv2d(net.act(net.conv(x)), weight))

    return Net(run, conv=conv(), act=nn.ReLU(), maker=nn.Linear(3, 16), fc=nn.Linear(4, 3))


# --- what the site's output goes into --------------------------------------------------------------------------------


@case("maps side by side, one of which depends on the site")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        both = torch.cat([net.act(net.conv(x)), net.act2(net.conv2(x)), x], 1)
        return tail(net, net.act3(net.conv3(both)))

    acts = {"act": nn.ReLU(), "act2": nn.ReLU(), "act3": nn.ReLU()}
    return Net(run, conv=conv(), conv2=conv(), conv3=conv(11), **acts, fc=nn.Linear(4, 3))


@case("squeeze and excite")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        gate = net.gate(net.up(net.act2(net.down(h.mean((2, 3), keepdim=True)))))
        return tail(net, net.act3(net.conv2(h * gate)))

    acts = {"act": nn.SiLU(inplace=True), "act2": nn.ReLU(inplace=True), "act3": nn.ReLU(), "gate": nn.Sigmoid()}
    return Net(run, conv=conv(), down=conv(4, 2, 1), up=conv(2, 4, 1), conv2=conv(4), **acts, fc=nn.Linear(4, 3))


@case("a site that is read directly and by a convolution with shared weights")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        return tail(net, (h + net.conv2(h) + net.conv2(h.flip(3)) + 2 * net.conv2(h)).tanh())

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), fc=nn.Linear(4, 3))


@case("two convolutions with one weight")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act2(net.conv3(net.norm(net.conv2(net.act(net.conv(x)))))))

    net = Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), norm=norm(), conv3=conv(4), act2=nn.ReLU(),
              fc=nn.Linear(4, 3))  # fmt: skip
    net.conv3.weight = net.conv2.weight
    return net


@case("a site that goes nowhere")
def unused() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        net.dead(net.act(net.conv(x)))
        return tail(net, net.act2(net.conv2(x)))

    acts = {"act": nn.ReLU(), "dead": nn.GELU(), "act2": nn.ReLU()}
    return Net(run, conv=conv(), conv2=conv(), **acts, fc=nn.Linear(4, 3))


@case("a convolution over depth")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act2(net.conv2(net.act(net.conv(x[:, :, None])).squeeze(2))))

    deep = nn.Conv3d(3, 4, (1, 3, 3))
    return Net(run, conv=deep, act=nn.ReLU(), conv2=conv(4), act2=nn.ReLU(), fc=nn.Linear(4, 3))


@case("no parameters")
def _() -> nn.Module:
    return Net(lambda net, x: net.pool(net.act(x)).flatten(1), act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2))


@case("a head that reads two tokens", layers=["act", "norm", "mlp.0", "mlp.1", "mlp", "last"])
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x).flatten(2).transpose(1, 2))
        h = h + (h @ h.transpose(1, 2)).softmax(-1) @ net.value(h)
        h = net.last(h + net.mlp(net.norm(h)))
        return net.fc(h[:, 0] + 2 * h[:, 3])

    mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    return Net(run, conv=nn.Conv2d(3, 8, 4, 4), act=nn.GELU(), value=nn.Linear(8, 8), norm=nn.LayerNorm(8), mlp=mlp,
               last=nn.LayerNorm(8), fc=nn.Linear(8, 3))  # fmt: skip


@case("a head that reads the largest token", layers=["act", "mlp.1"])
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x).flatten(2).transpose(1, 2))
        return net.fc((h + net.mlp(h)).amax(1))

    mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    return Net(run, conv=nn.Conv2d(3, 8, 4, 4), act=nn.GELU(), mlp=mlp, fc=nn.Linear(8, 3))


# --- what modules tell each other behind the data's back -------------------------------------------------------------


@case("activations that are kept on the model")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        net.kept = net.act(net.conv(x))
        return tail(net, net.conv2(x) + net.act2(net.kept))

    return Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(), act2=nn.GELU(), fc=nn.Linear(4, 3))


class Keep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return x * 1


class Recall(nn.Module):
    def __init__(self, keeper: Keep) -> None:
        super().__init__()
        self.keepers = [keeper]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.keepers[0].kept


@case("activations that one module keeps and another recalls", falls_back={"act"})
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.recall(net.act(net.conv2(net.keep(net.conv(x))))).tanh())

    keep = Keep()
    modules = {"conv": conv(), "keep": keep, "conv2": conv(4), "act": nn.ReLU(), "recall": Recall(keep)}
    return Net(run, **modules, fc=nn.Linear(4, 3))


@case("numbers that leave torch on the way", falls_back={"act"})
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        pooled = torch.from_numpy(net.act(net.conv(x)).mean((2, 3)).numpy())
        return net.fc(net.act2(net.hidden(pooled)))

    return Net(run, conv=conv(), act=nn.ReLU(), hidden=nn.Linear(4, 6), act2=nn.ReLU(), fc=nn.Linear(6, 3))


@case("a path that each image chooses", falls_back=None)
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        pooled = net.act(net.conv(x)).mean((2, 3))
        parts = [(net.a if float(row.detach().mean()) > 0.25 else net.b)(row) for row in pooled]
        return net.fc(net.act2(torch.stack(parts)))

    hidden = {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6)}
    return Net(run, conv=conv(), act=nn.ReLU(), **hidden, act2=nn.ReLU(), fc=nn.Linear(6, 3))


# --- batch norms that must not be folded -----------------------------------------------------------------------------


def _normed(net: Any, x: Tensor) -> Tensor:
    return tail(net, net.act(net.norm(net.same(net.block(x)))))


@case("a container that ends in a convolution, before a batch norm", layers=["block", "act"])
def _() -> nn.Module:
    block = nn.Sequential(conv(), conv(4))
    return Net(_normed, block=block, same=nn.Identity(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))


@case("an identity between a convolution and a batch norm", layers=["same", "act"])
def _() -> nn.Module:
    return Net(_normed, block=conv(), same=nn.Identity(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))


@case("a batch norm as site", layers=["norm", "act"])
def _() -> nn.Module:
    return Net(_normed, block=conv(), same=nn.Identity(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))


@case("a convolution whose weight a hook makes")
def _() -> nn.Module:
    block = nn.utils.spectral_norm(conv())
    return Net(_normed, block=block, same=nn.Identity(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))


@case("a convolution whose weight is parametrised")
def _() -> nn.Module:
    block = nn.utils.parametrizations.weight_norm(conv())
    return Net(_normed, block=block, same=nn.Identity(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))


# --- the tests -------------------------------------------------------------------------------------------------------


# --- poolings behind the site ----------------------------------------------------------------------------------------


@case("a pooling between the site and a convolution")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act2(net.conv2(net.pool(net.act(net.conv(x))))))

    return Net(run, conv=conv(), act=nn.ReLU(), pool=nn.MaxPool2d(3, 2, 1), conv2=conv(4), act2=nn.ReLU(),
               fc=nn.Linear(4, 3))  # fmt: skip


@case("a pooling whose output is read twice, once in place")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.pool(net.act(net.conv(x)))
        y = net.conv2(h)
        h *= 2
        return tail(net, net.act2(h + y))

    return Net(run, conv=conv(), act=nn.ReLU(), pool=nn.AvgPool2d(3, 2, 1), conv2=conv(4), act2=nn.ReLU(),
               fc=nn.Linear(4, 3))  # fmt: skip


@case("a pooling beside a convolution")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        return tail(net, net.act2(net.pool(h) + net.conv2(h)))

    return Net(run, conv=conv(), act=nn.ReLU(), pool=nn.MaxPool2d(2, ceil_mode=True), conv2=conv(4, stride=2),
               act2=nn.ReLU(), fc=nn.Linear(4, 3))  # fmt: skip


@case("a site that is pooled twice")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.conv(x))
        return tail(net, net.act2(net.conv2(net.pool(h)) - net.mean(h)))

    return Net(run, conv=conv(), act=nn.ReLU(), pool=nn.MaxPool2d(2), mean=nn.AdaptiveAvgPool2d(8), conv2=conv(4),
               act2=nn.ReLU(), fc=nn.Linear(4, 3))  # fmt: skip


@case("one pooling of two sites")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.pool(net.act(net.conv(x)))
        return net.fc(net.pool(net.act2(net.conv2(h))).flatten(1))

    return Net(run, conv=conv(), act=nn.ReLU(), pool=nn.AvgPool2d(2), conv2=conv(4), act2=nn.ReLU(),
               fc=nn.Linear(64, 3))  # fmt: skip


@case("a pooling that a hook changes")
def _() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return tail(net, net.act2(net.conv2(net.pool(net.act(net.conv(x))))))

    net = Net(run, conv=conv(), act=nn.ReLU(), pool=nn.MaxPool2d(2), conv2=conv(4), act2=nn.ReLU(), fc=nn.Linear(4, 3))
    net.pool.register_forward_hook(lambda _m, _i, output: output * torch.arange(4.0)[: output.shape[1], None, None])
    return net


@pytest.fixture(params=list(CASES))
def resisting(request: pytest.FixtureRequest) -> tuple[nn.Module, list[Site], set[str]]:
    """Each model with its sites and those where it cannot be replayed."""
    build, layers, falls_back = CASES[request.param]
    model = seeded(build)
    return model, probe_sites(model, pictures(2), layers=layers), falls_back


def test_what_resists_agrees_or_falls_back(
    resisting: tuple[nn.Module, list[Site], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sites, falls_back = resisting
    images = pictures(5)
    jobs = jobs_of(sites, lambda site: range(site.n_units))
    intact, wanted = by_hand(model, images, jobs)
    assert largest(wanted) > 1e-3 * float(intact.abs().max())
    before = state_of(model)
    engine = ExactEngine(model, sites, images)
    for limit in (3, 10, 4096):
        monkeypatch.setattr(engine, "pairs_per_batch", lambda _site, limit=limit: limit)
        for n in (5, 1, 2):
            logits, found = by_engine(engine, images[:n], jobs)
            torch.testing.assert_close(logits, intact[:n], atol=1e-5, rtol=1e-5)
            part = {name: change[:, :n] for name, change in wanted.items()}
            assert_same(found, part, tolerance=1e-4 * largest(wanted) / largest(part))
    assert set(engine.fallbacks) == falls_back
    assert all(engine.fallbacks.values())
    after = state_of(model)
    if not any("kept" in vars(module) for module in model.modules()):
        assert_untouched(model, before)
    assert [flags[:6] for flags in after[0]] == [flags[:6] for flags in before[0]]


@pytest.mark.parametrize("n", [1, 4])
def test_an_autocast_inside_the_model_agrees_as_far_as_its_type_goes(n: int) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return tail(net, net.act2(net.norm(net.conv2(net.act(net.conv(x)))))).float()

    model = seeded(lambda: Net(run, conv=conv(), act=nn.ReLU(), conv2=conv(4), norm=norm(), act2=nn.ReLU(),
                               fc=nn.Linear(4, 3)))  # fmt: skip
    images = pictures(4)
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    assert_same(by_engine(engine, images[:n], jobs)[1], by_hand(model, images[:n], jobs)[1], tolerance=0.02)


def test_double_precision_stays_double() -> None:
    model = calibrated(seeded(CASES["blocks as sites"][0]).double(), pictures(8).double())
    images = pictures(4).double()
    sites = probe_sites(model, images, layers="blocks")
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    logits, found = by_engine(engine, images, jobs)
    assert engine.dtype == logits.dtype == torch.float64
    assert_same(found, by_hand(model, images, jobs)[1], tolerance=1e-12)


def test_a_model_in_channels_last_is_replayed(tiny_resnet: nn.Module) -> None:
    model = tiny_resnet.to(memory_format=torch.channels_last)
    images = pictures(4).contiguous(memory_format=torch.channels_last)
    sites = probe_sites(model, images)
    engine = ExactEngine(model, sites, images)
    jobs = jobs_of(sites)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])
    assert engine.fallbacks == {}


def test_a_site_that_goes_nowhere_has_no_effect_at_all() -> None:
    model, images = seeded(unused), pictures(4)
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    found = by_engine(engine, images, jobs)[1]
    assert [float(change.abs().max()) > 1e-6 for change in found.values()] == [False, False, True]


@pytest.mark.parametrize("engine", ["exact", "hooks", "captum", "groups"])
def test_a_model_that_changes_its_input_gets_it_unchanged_every_time(engine: str) -> None:
    model, images = seeded(changes_its_input), pictures(4)
    kept = images.clone()
    sites = probe_sites(model, images.clone())
    jobs = jobs_of(sites)
    wanted = by_hand(model, images, jobs)[1]
    if engine == "groups":
        groups = [jobs_of(sites, lambda _site, unit=unit: [unit]) for unit in jobs[0].units.tolist()]
        intact, *ablated = group_logits(model, images, [[], *groups], Zero())
        found = {sites[0].name: torch.stack(ablated) - intact}
    else:
        made = {
            "exact": lambda: ExactEngine(model, sites, images),
            "hooks": lambda: HookEngine(model, images),
            "captum": lambda: CaptumEngine(model),
        }[engine]()
        shown = images.clone()
        parts: list[Tensor] = []
        made.ablate(shown, jobs, Zero(), lambda *given: parts.append(given[3] - given[4]))
        torch.testing.assert_close(shown, kept, rtol=0, atol=0)
        found = by_engine(made, images, jobs)[1]
    torch.testing.assert_close(images, kept, rtol=0, atol=0)
    assert_same(found, wanted)


def test_sites_of_another_model_are_refused(tiny_cnn: nn.Module, tiny_resnet: nn.Module) -> None:
    images = pictures(3)
    sites = probe_sites(tiny_cnn, images)
    with pytest.raises(ModelError, match="does not call act1"):
        ExactEngine(tiny_resnet, sites, images)
    with pytest.raises(ModelError, match="no layer 'act1'"):
        by_engine(HookEngine(tiny_resnet, images), images, jobs_of(sites))


def test_a_layer_that_some_images_do_not_reach_is_reported() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x)
        return tail(net, net.act(h) if float(x.detach().sum()) > 0 else h)

    model, images = seeded(lambda: Net(run, conv=conv(), act=nn.ReLU(), fc=nn.Linear(4, 3))), pictures(4).abs()
    sites = probe_sites(model, images)
    engine = ExactEngine(model, sites, images)
    by_engine(engine, images, jobs_of(sites))
    with pytest.raises(ModelError, match="did not call 'act'"):
        by_engine(engine, -images, jobs_of(sites))


# --- what a plan says ------------------------------------------------------------------------------------------------


def plans(model: nn.Module, images: Tensor) -> dict[str, SitePlan]:
    sites = probe_sites(model, images)
    engine = ExactEngine(model, sites, images, fold=False)
    found = {site.name: engine.plan(site) for site in sites}
    assert engine.fallbacks == {}
    return {name: plan for name, plan in found.items() if plan is not None}


def test_only_what_follows_the_site_runs_again(tiny_resnet: nn.Module) -> None:
    found = plans(tiny_resnet, pictures(2))
    stem, first, second = found["relu"], found["blocks.0.relu@1"], found["blocks.0.relu@2"]
    assert stem.spared == {("conv", 1): False, ("bn", 1): False}
    # The skip connection reads what came out of the stem; the block's own first layers only have the right shape.
    assert first.spared == {
        ("conv", 1): False,
        ("bn", 1): False,
        ("relu", 1): True,
        ("blocks.0.conv1", 1): False,
        ("blocks.0.bn1", 1): False,
    }
    # The addition is behind the skip connection, before the site.
    assert not any(second.spared.values())
    assert not any(plan.image_needed for plan in found.values())


def test_a_convolution_that_reads_the_site_takes_the_change_alone(tiny_resnet: nn.Module) -> None:
    found = plans(tiny_resnet, pictures(2))
    assert found["blocks.0.relu@1"].direct == {("blocks.0.conv2", 1)}
    assert not found["blocks.0.relu@1"].site_needed
    # Here the next block's skip connection reads the site, too.
    assert found["blocks.0.relu@2"].direct == {("blocks.1.conv1", 1)}
    assert found["blocks.0.relu@2"].site_needed
    assert found["blocks.1.relu@2"].direct == set()
    assert found["blocks.1.relu@2"].site_needed


def test_a_pooling_that_alone_reads_the_site_pools_one_channel() -> None:
    found = plans(seeded(CASES["a pooling between the site and a convolution"][0]), pictures(2))
    assert found["act"].pool == found["act"].call == ("pool", 1)
    assert found["act"].direct == {("conv2", 1)}
    assert not found["act"].site_needed
    assert found["act2"].pool is None
    found = plans(seeded(CASES["one pooling of two sites"][0]), pictures(2))
    assert [found[name].pool for name in ("act", "act2")] == [("pool", 1), ("pool", 2)]


@pytest.mark.parametrize(
    "name", ["a pooling beside a convolution", "a site that is pooled twice", "a pooling that a hook changes"]
)
def test_a_pooling_that_is_not_alone_or_not_itself_pools_every_channel(name: str) -> None:
    assert plans(seeded(CASES[name][0]), pictures(2))["act"].pool is None


@pytest.mark.parametrize("edit", [Mean(), Clamp(0.1), Noise(1.0), Resample()], ids=lambda edit: type(edit).__name__)
def test_edits_are_made_before_the_pooling(edit: Edit) -> None:
    model, images = seeded(CASES["a pooling between the site and a convolution"][0]), pictures(6)
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    drawn = {site.name: torch.randn(6, *site.shape) for site in sites}
    options: dict[str, Any] = {"donors": images.flip(0), "noise": lambda site: drawn[site.name]}
    found, wanted = (
        by_engine(engine, images, jobs, edit, **options)[1]
        for engine in (ExactEngine(model, sites, images), HookEngine(model, images))
    )
    assert largest(wanted) > 1e-3
    assert_same(found, wanted)


def test_linear_layers_of_tokens_take_the_change_alone(tiny_vit: nn.Module) -> None:
    found = plans(tiny_vit, pictures(2))
    assert {name: plan.direct for name, plan in found.items()} == {
        "blocks.0.act": {("blocks.0.fc2", 1)},
        "blocks.1.act": {("blocks.1.fc2", 1)},
    }


def test_the_second_of_three_calls_spares_the_first_alone() -> None:
    found = plans(seeded(recurrent), pictures(2))
    second = found["cell.1@2"]
    assert second.spared == {("conv", 1): False, ("cell", 1): False, ("cell.0", 2): False}
    assert second.direct == {("cell.0", 3)}
    assert found["cell.1@3"].direct == set()
    assert second.inner["cell", 1] == {"cell.0": 1, "cell.1": 1}


def test_the_largest_tensor_grows_with_what_follows(tiny_cnn: nn.Module) -> None:
    found = plans(tiny_cnn, pictures(2))
    # act1 is only read by conv2, which makes 12 maps of 4 x 4; of act2 one channel is pooled; act3 is a vector of 10.
    assert found["act1"].largest >= 12 * 16 * 4
    assert found["act2"].largest == 12 * 4
    assert found["act3"].largest == 3 * 4
