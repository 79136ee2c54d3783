"""A training of a model of experts that is held up in the steps that its settings name under ``hold``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tiny_elastic import wait_if_held

from quiltwork.moe.training.training import MoETraining


class HeldMoE(MoETraining):
    def setup(self, setup):
        self._held = {"hold": setup.config.get("hold", [])}
        self._folder = Path(setup.workdir)
        super().setup(replace(setup, config={name: it for name, it in setup.config.items() if name != "hold"}))

    def gradients(self, sample_ids):
        wait_if_held(self._held, self._folder, self._done)
        return super().gradients(sample_ids)
