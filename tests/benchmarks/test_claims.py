"""Every promised figure is declared once, with exactly the promised reach, and no benchmark excuses a wrong answer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from quiltwork.core.bench import Claim, at_least, at_most

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

PROMISED = {
    "serving.lora16_step_vs_peft": (at_least(2.5), "baseline/ours", False),
    "serving.lora16_step_vs_hf_per_app": (at_least(7.0), "baseline/ours", False),
    "serving.cut_parity": (at_least(0.98), "ours/baseline", True),
    "serving.single_b1_vs_hf": (at_least(1.2), "ours/baseline", False),
    "serving.single_b8_vs_hf": (at_least(1.2), "ours/baseline", False),
    "zoo.fleet_lossless_bytes": (at_most(0.45), "ours/baseline", False),
    "zoo.fleet_int8_bytes": (at_most(0.25), "ours/baseline", False),
    "serving.fleet_peak_pss": (at_most(0.35), "ours/baseline", False),
    "serving.azure_p95": (at_most(0.665), "ours/baseline", False),
    "serving.azure_throughput": (at_least(1.71), "ours/baseline", False),
    "serving.cluster_p95": (at_most(0.665), "ours/baseline", False),
    "serving.cluster_utilisation": (at_least(1.201), "ours/baseline", False),
    "serving.prefix_token_layers": (at_most(0.30), "ours/baseline", False),
    "serving.per_model_p95": (at_most(0.665), "ours/baseline", False),
    "serving.per_model_throughput": (at_least(1.71), "ours/baseline", False),
    "serving.per_model_goodput": (at_least(1.5), "ours/baseline", False),
    "serving.sharing_p95": (at_most(0.8), "ours/baseline", False),
    "serving.sharing_throughput": (at_least(1.3), "ours/baseline", False),
    "serving.llama_throughput": (at_least(1.2), "ours/baseline", False),
    "serving.kv_policy_near_best": (at_most(1.10), "ours/baseline", False),
    "serving.kv_policy_switch": (at_least(1.0), "ours/baseline", True),
    "serving.flood_p95": (at_most(1.10), "ours/baseline", False),
    "serving.simulator_error_loads": (at_most(1.10), "ours/baseline", False),
    "serving.simulator_error_policies": (at_most(1.10), "ours/baseline", False),
    "serving.flat_decode": (at_most(1.5), "ours/baseline", False),
    "serving.speculation_gain": (at_least(1.3), "ours/baseline", False),
    "serving.speculation_bound": (at_least(0.9), "ours/baseline", False),
    "serving.speculation_identical": (at_least(1.0), "ours/baseline", True),
    "serving.speculation_useless": (at_least(0.98), "ours/baseline", True),
    "cluster.queue_vs_fifo": (at_least(1.53), "baseline/ours", False),
    "cluster.jct_vs_fifo": (at_least(1.50), "baseline/ours", False),
    "cluster.queue_vs_sjf": (at_least(4.0), "baseline/ours", False),
    "cluster.jct_vs_sjf": (at_least(1.3), "baseline/ours", False),
    "cluster.linear_queue_vs_fifo": (at_least(40.0), "baseline/ours", False),
    "cluster.linear_jct_vs_fifo": (at_least(1.9), "baseline/ours", False),
    "cluster.usage_vs_fifo": (at_least(1.269), "ours/baseline", False),
    "cluster.goodput_vs_fifo": (at_least(1.0), "ours/baseline", False),
    "cluster.shortfall": (at_most(1.001), "ours/baseline", False),
    "cluster.simulation_seconds": (at_most(60.0), "ours/baseline", False),
    "cluster.simulation_fifo_seconds": (at_most(10.0), "ours/baseline", False),
    "cluster.simulation_sjf_seconds": (at_most(10.0), "ours/baseline", False),
    "cluster.reclaim_vs_random": (at_most(0.3), "ours/baseline", False),
    "cluster.reclaim_vs_count": (at_most(0.4), "ours/baseline", False),
    "cluster.reclaim_vs_optimum_20": (at_most(1.05), "ours/baseline", False),
    "cluster.reclaim_vs_optimum_50": (at_most(1.05), "ours/baseline", False),
    "cluster.reclaim_vs_optimum_100": (at_most(1.05), "ours/baseline", False),
    "cluster.reclaim_vs_optimum_300": (at_most(1.05), "ours/baseline", False),
    "cluster.epoch_100k_10k": (at_most(1.0), "ours/baseline", False),
    "cluster.allocation_time": (at_most(1.0), "ours/baseline", False),
    "cluster.allocation_gap": (at_least(0.9999), "ours/baseline", False),
    "cluster.rescale_out_local_seconds": (at_most(2.0), "ours/baseline", False),
    "cluster.rescale_out_ray_seconds": (at_most(2.0), "ours/baseline", False),
    "cluster.rescale_in_local_seconds": (at_most(0.5), "ours/baseline", False),
    "cluster.rescale_in_ray_seconds": (at_most(0.5), "ours/baseline", False),
    "cluster.rescale_out_local_vs_ray_train": (at_least(10.0), "baseline/ours", False),
    "cluster.rescale_out_ray_vs_ray_train": (at_least(10.0), "baseline/ours", False),
    "cluster.rescale_in_local_vs_ray_train": (at_least(10.0), "baseline/ours", False),
    "cluster.rescale_in_ray_vs_ray_train": (at_least(10.0), "baseline/ours", False),
    "cluster.muri_srtf_jct": (at_most(1.01), "ours/baseline", False),
    "cluster.simulator_error": (at_most(1.05), "ours/baseline", False),
    "text.matrix_speed": (at_least(1.5), "baseline/ours", False),
    "text.search_p99": (at_most(50.0), "ours/baseline", False),
    "text.search_recall": (at_least(0.95), "ours/baseline", False),
    "text.search_rss": (at_most(1.5), "ours/baseline", False),
    "text.own_vectors": (at_least(0.83), "ours/baseline", False),
    "text.table1_jaccard": (at_most(1.001), "ours/baseline", False),
    "text.table1_qgram": (at_most(1.001), "ours/baseline", False),
    "text.table1_jaccard_pairs": (at_most(1.001), "ours/baseline", False),
    "text.table1_qgram_pairs": (at_most(1.001), "ours/baseline", False),
    "text.strings_only": (at_least(0.817), "ours/baseline", False),
    "text.unsupervised_biosses": (at_least(0.88), "ours/baseline", False),
    "text.unsupervised_ctr": (at_least(0.85), "ours/baseline", False),
    "text.with_encoder_biosses": (at_least(0.90), "ours/baseline", False),
    "text.with_encoder_ctr": (at_least(0.885), "ours/baseline", False),
    "text.p1_protocol": (at_least(0.905), "ours/baseline", False),
    "text.p3_transfer": (at_least(0.895), "ours/baseline", False),
    "text.conformal_coverage": (at_least(0.85), "ours/baseline", False),
    "text.paragraph_closed_r": (at_most(1.005), "ours/baseline", False),
    "text.paragraph_closed_same": (at_most(1.0), "ours/baseline", True),
    "text.paragraph_closed_speed": (at_least(50), "baseline/ours", False),
    "text.paragraph_closed_speed_compiled": (at_least(50), "baseline/ours", False),
    "text.paragraph_full_r": (at_most(1.005), "ours/baseline", False),
    "text.author_pairs_auc": (at_least(0.90), "ours/baseline", False),
    "text.author_pairs_auc_stretch": (at_least(0.95), "ours/baseline", False),
    "text.generated_edits_auc": (at_least(0.95), "ours/baseline", False),
    "text.semantoneg_accuracy": (at_least(0.85), "ours/baseline", False),
    "text.polarity_keeps_r": (at_most(1.005), "ours/baseline", False),
    "moe.controller_reach": (at_most(1.03), "ours/baseline", False),
    "moe.controller_quality": (at_most(1.0), "ours/baseline", True),
    "moe.time_to_loss_best": (at_most(0.775), "ours/baseline", False),
    "moe.time_to_loss_mean": (at_most(0.85), "ours/baseline", False),
    "moe.time_to_loss_vs_top1": (at_most(1.0), "ours/baseline", False),
    "moe.quality_accuracy": (at_most(1.005), "ours/baseline", False),
    "moe.quality_bleu": (at_most(1.005), "ours/baseline", False),
    "moe.quality_bits": (at_most(1.005), "ours/baseline", False),
    "moe.random_second_inference": (at_most(1.0), "ours/baseline", False),
    "moe.curriculum_straggler_2": (at_most(0.5), "ours/baseline", False),
    "moe.curriculum_straggler_4": (at_most(0.5), "ours/baseline", False),
    "moe.layer_adaptive": (at_most(0.65), "ours/baseline", False),
    "moe.mixtral_vs_eager": (at_least(3.0), "baseline/ours", False),
    "moe.mixtral_vs_grouped_mm": (at_least(1.5), "baseline/ours", False),
}


def modules() -> list[ModuleType]:
    return [importlib.import_module(path.stem) for path in sorted(BENCHMARKS.glob("*.py"))]


def claims() -> list[Claim]:
    return [claim for module in modules() for claim in module.CLAIMS]


def test_every_promised_figure_is_declared_once() -> None:
    assert sorted(claim.name for claim in claims()) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_reach_direction_and_parity_are_as_promised(name: str) -> None:
    claim = next(claim for claim in claims() if claim.name == name)
    reach, ratio, parity = PROMISED[name]
    assert (claim.reach, claim.ratio, claim.parity) == (reach, ratio, parity)
    assert claim.room == name.partition(".")[0]


def test_listing_the_claims_imports_no_torch() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import importlib, pathlib\n"
        f"for path in pathlib.Path({str(BENCHMARKS)!r}).glob('*.py'): importlib.import_module(path.stem)\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
