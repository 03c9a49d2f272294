"""The plugin manager: one door for built-ins and for installed plugins."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from auditor import hookspecs
from auditor.errors import PluginError, unknown_name

if TYPE_CHECKING:
    from auditor.ablation.edits import Edit
    from auditor.data.base import DataSource
    from auditor.perturbations.base import Corruption
    from auditor.selectivity.base import AnyMetric
    from auditor.training.metrics import TrainingMetric

# Named, not imported: the registry sits below the rooms that provide the built-ins.
BUILTIN_PLUGINS = (
    "auditor.selectivity.builtin",
    "auditor.data.builtin",
    "auditor.ablation.builtin",
    "auditor.perturbations.builtin",
    "auditor.training.builtin",
)


class Registry:
    """Loads plugins and looks up what they provide.

    Attributes
    ----------
    broken : dict of str to PluginError
        Plugins that failed to load; the rest keeps working.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.broken: dict[str, PluginError] = {}
        for name in BUILTIN_PLUGINS:
            self.manager.register(import_module(name), name=name)

    def load_installed(self) -> None:
        """Load every plugin announced under the ``auditor`` entry-point group."""
        for entry in sorted(entry_points(group=hookspecs.PROJECT), key=lambda e: e.name):
            self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        if self.manager.has_plugin(entry.name):
            return
        try:
            plugin = entry.load()
            self.manager.register(plugin, name=entry.name)
            self.manager.check_pending()
            self._try_hooks(plugin)
        except (Exception, SystemExit) as error:  # foreign code: whatever it raises must not end the tool
            if self.manager.has_plugin(entry.name):
                self.manager.unregister(name=entry.name)
            self.broken[entry.name] = PluginError(
                f"The plugin {entry.name!r} ({entry.value}) failed to load: {type(error).__name__}: {error}",
                fix="Update or uninstall the package that provides it.",
            )

    def _try_hooks(self, plugin: object) -> None:
        """Call what a plugin provides once, so that it fails here and not in the middle of a command."""
        for hook in self.manager.get_hookcallers(plugin) or ():
            for implementation in hook.get_hookimpls():
                if implementation.plugin is plugin:
                    provided: Any = implementation.function()
                    for item in provided:
                        _ = item.name

    def plugins(self) -> dict[str, str]:
        """Name of every loaded plugin and the module that implements it."""
        return {
            name: getattr(plugin, "__name__", type(plugin).__name__)
            for name, plugin in self.manager.list_name_plugin()
            if plugin is not None
        }

    def metrics(self) -> dict[str, AnyMetric]:
        """Every selectivity metric by name."""
        return self._collect("metric", self.manager.hook.auditor_metrics)

    def data_sources(self) -> dict[str, DataSource]:
        """Every data source by name, built-ins last so that a plugin can claim first."""
        return self._collect("data source", self.manager.hook.auditor_data_sources)

    def edits(self) -> dict[str, Edit]:
        """Every way to ablate a unit by name, with its default parameter."""
        return self._collect("edit", self.manager.hook.auditor_edits)

    def corruptions(self) -> dict[str, Corruption]:
        """Every natural corruption by name."""
        return self._collect("corruption", self.manager.hook.auditor_corruptions)

    def training_metrics(self) -> dict[str, TrainingMetric]:
        """Every differentiable selectivity metric by name."""
        return self._collect("training metric", self.manager.hook.auditor_training_metrics)

    def edit(self, text: str) -> Edit:
        """Look up an edit by ``NAME`` or ``NAME=VALUE``.

        Raises
        ------
        UnknownNameError
            With near matches, if there is none of that name.
        OptionError
            If the value is no number, or the edit takes none.
        """
        name, given, value = text.partition("=")
        edits = self.edits()
        if name not in edits:
            raise unknown_name("edit", name, edits, fix="`auditor plugins` lists them.")
        return edits[name].with_value(value) if given else edits[name]

    def metric(self, name: str) -> AnyMetric:
        """Look up one metric.

        Raises
        ------
        UnknownNameError
            With near matches, if there is none of that name.
        """
        metrics = self.metrics()
        if name not in metrics:
            raise unknown_name("selectivity metric", name, metrics, fix="`auditor plugins` lists them.")
        return metrics[name]

    def _collect(self, kind: str, hook: Callable[[], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for group in hook():  # pluggy calls the last registered first
            for item in group:
                if item.name in found:
                    raise PluginError(
                        f"Two plugins provide a {kind} named {item.name!r}.",
                        got=" and ".join(type(each).__module__ for each in (found[item.name], item)),
                        fix="Uninstall one of them.",
                    )
                found[item.name] = item
        return found


@cache
def registry() -> Registry:
    """Return the process-wide registry, with installed plugins loaded."""
    loaded = Registry()
    loaded.load_installed()
    return loaded
