"""What every classification network can do, whatever the names of its children."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cnnkernels import _backend
from cnnkernels.nn import FusedBlock, Linear
from cnnkernels.nn._image import as_channels_last, mean_over_pixels
from cnnkernels.nn._trunk import through
from cnnkernels.nn.sequential import Part


class SwitchedNetwork(FusedBlock):
    """A network with a ``backend`` of its own: ``forward`` calls ``_forward`` under it.

    backend: None, or the name for ``cnnkernels.use_backend`` while this model computes; "reference" computes with the
    plain ``torch.nn`` children one after the other.  Set by the subclass's constructor.
    """

    backend: str | None

    def forward(self, x: Tensor) -> Any:
        if self.backend is None:
            return self._forward(x)
        with _backend.use_backend(self.backend):
            return self._forward(x)

    def _forward(self, x: Tensor) -> Any:
        raise NotImplementedError

    def _as_computed(self, x: Tensor) -> Tensor:
        """x channels_last on a CPU, where convolutions are faster so."""
        if x.device.type != "cpu" or x.dim() != 4 or _backend.wanted() == "reference":
            return x
        return as_channels_last(x)


class Network(SwitchedNetwork):
    """``forward_features`` (the trunk), then ``forward_head`` (pooling, dropout, the last layer).

    x: [N, in_chans, H, W], normalised.  ``model(x)`` returns

    * logits [N, num_classes];
    * with ``num_classes=0`` what the last layer would have seen: [N, num_features];
    * with ``features_only`` a list of feature maps [N, C, H / s, W / s], one per stride s: the last one of each.
      ``channels`` and ``strides`` describe them.  ``out_indices`` picks some of them by position.

    A subclass builds its children under their published names, the last one by ``make_last_layer``, then calls
    ``complete``; it defines ``steps``, ``initialise`` and, where its head is another one, ``forward_head``.

    On a CPU the activations inside are channels_last; ``reference`` leaves them.
    """

    last_layer: ClassVar[str] = "classifier"
    """Dotted name of the layer that returns the logits."""
    head: ClassVar[tuple[str, ...]]
    """Children that only ``forward_head`` uses, in order; where a class says nothing, the one with the last layer in it."""
    drop_rate: float = 0.0
    """Of the dropout before them, in networks whose checkpoints have no place for one."""

    num_classes: int
    num_features: int
    """Inputs of the last layer."""
    channels: list[int]
    """Of the feature maps."""
    strides: list[int]
    left_out: tuple[str, ...]
    """Beginnings of the checkpoint keys that this form of the network has no use for."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The trunk, one step after another."""
        raise NotImplementedError

    def initialise(self, name: str, module: nn.Module) -> None:
        """Initial weights of one layer, as the paper has them; name: its dotted name."""
        raise NotImplementedError

    def make_last_layer(self, num_features: int, num_classes: int) -> nn.Module:
        """The layer that returns the logits; an ``nn.Identity`` for no classes."""
        if num_classes < 0:
            raise ValueError(f"{type(self).__name__}: num_classes must be 0 or more, got {num_classes}")
        self.num_features, self.num_classes = num_features, num_classes
        return nn.Identity() if num_classes == 0 else self._classifier(num_features, num_classes)

    def _classifier(self, num_features: int, num_classes: int) -> nn.Module:
        return Linear(num_features, num_classes)

    def complete(
        self,
        shapes: Sequence[tuple[int, int]],
        *,
        features_only: bool = False,
        out_indices: Sequence[int] | None = None,
    ) -> None:
        """Last call of a constructor: initial weights; a network without the parts that it was asked not to have.

        shapes: (channels, stride) after every step of ``steps`` that ends in a feature map; further steps (a wide
            convolution before the pooling, say) belong to the head.
        """
        self.backend: str | None = None
        self.left_out = ()
        for name, module in self.named_modules():
            self.initialise(name, module)
        self._maps: tuple[int, ...] | None = None
        ends = {stride: i for i, (_, stride) in enumerate(shapes)}
        chosen = [*ends.values()]
        if out_indices is not None:
            if not features_only:
                raise ValueError(f"{type(self).__name__}: out_indices is for features_only=True")
            chosen = _pick(type(self).__name__, chosen, out_indices)
        self.channels, self.strides = [shapes[i][0] for i in chosen], [shapes[i][1] for i in chosen]
        if features_only:
            self._maps = tuple(chosen)
            self._leave_out(max(chosen))
        elif self.num_classes == 0:
            self.left_out = (f"{self.last_layer}.",)

    def _leave_out(self, last_step: int) -> None:
        """Drops the modules that come after the last feature map."""
        names = {id(m): name for name, m in self.named_modules(remove_duplicate=True)}
        steps = self.steps()[last_step + 1 :]
        modules = [
            m for s in steps for m in ([s] if isinstance(s, nn.Module) else s.children() if isinstance(s, Part) else [])
        ]
        after = [names[id(m)] for m in modules]
        gone = [*after, *(name for name in self._head() if name in self._modules)]
        for name in gone:
            parent, _, child = name.rpartition(".")
            del self.get_submodule(parent)._modules[child]
        self.left_out = tuple(f"{name}." for name in gone)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, before the pooling."""
        return through(self, self.steps(), self._as_computed(x))  # type: ignore[no-any-return]

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of a ``features_only`` network."""
        assert self._maps is not None
        x, steps, start, maps = self._as_computed(x), self.steps(), 0, []
        for i in self._maps:
            x = through(self, steps[start : i + 1], x, ("route", start))
            maps.append(x)
            start = i + 1
        return maps

    def forward_head(self, x: Tensor) -> Tensor:
        """Logits of the last feature map: its mean over H and W, dropout, and the head's children one after the other."""
        x = mean_over_pixels(x)
        if self.training:
            x = nn.functional.dropout(x, self.drop_rate)
        for name in self._head():
            child: Any = self._modules[name]
            x = child(x)
        return x

    def _head(self) -> tuple[str, ...]:
        # Of the class: a child may be called "head", too.
        return getattr(type(self), "head", (self.last_layer.partition(".")[0],))

    def _forward(self, x: Tensor) -> Any:
        if self._maps is not None:
            return self.forward_maps(x)
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer with initial weights, for fine-tuning; 0 removes it, so that the model returns features."""
        if self._maps is not None:
            raise ValueError("reset_classifier: a features_only network has no classifier")
        parent, _, child = self.last_layer.rpartition(".")
        old = self.get_submodule(self.last_layer)
        like = next(self.parameters())
        new = self.make_last_layer(self.num_features, num_classes)
        self.initialise(self.last_layer, new)
        setattr(self.get_submodule(parent), child, new.to(like.device, like.dtype).train(old.training))
        self.left_out = (f"{self.last_layer}.",) if num_classes == 0 else ()


def _pick(who: str, chosen: list[int], out_indices: Sequence[int]) -> list[int]:
    n = len(chosen)
    if not out_indices or any(not -n <= i < n for i in out_indices):
        raise ValueError(f"{who}: out_indices must be positions among the {n} feature maps, got {tuple(out_indices)}")
    return [chosen[i] for i in sorted({i % n for i in out_indices})]
