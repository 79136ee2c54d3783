"""The fleet the figures are measured on: one base model and what teams make of it, as Hugging Face and PEFT folders.

Speed and size depend on shapes and on how far a fine-tune moved, not on what the weights say, so the weights are
drawn from a seed. A changed tensor moves by Gaussian noise of relative L2 6 %, where real full fine-tunes of small
models show 4-9 %.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Weights = npt.NDArray[np.float32]

RELATIVE_CHANGE = 0.06
"""||changed - base|| / ||base|| of every tensor that a fine-tune moves."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Shape:
    """A llama body: SwiGLU, full attention, RoPE, untied head, fp32."""

    vocab: int = 8192
    hidden: int = 512
    layers: int = 8
    heads: int = 8
    ffn: int = 1376
    positions: int = 1024

    def config(self) -> dict[str, object]:
        """``config.json`` of a transformers LlamaForCausalLM of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.hidden // self.heads,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "float32",
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint name -> shape, matrices (out, in)."""
        d, f = self.hidden, self.ffn
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, d)}
        for i in range(self.layers):
            at = f"model.layers.{i}."
            shapes[at + "input_layernorm.weight"] = (d,)
            shapes |= {f"{at}self_attn.{role}.weight": (d, d) for role in LORA_TARGETS}
            shapes[at + "post_attention_layernorm.weight"] = (d,)
            shapes |= {f"{at}mlp.{role}.weight": (f, d) for role in ("gate_proj", "up_proj")}
            shapes[at + "mlp.down_proj.weight"] = (d, f)
        return shapes | {"model.norm.weight": (d,), "lm_head.weight": (self.vocab, d)}


BODY_30M = Shape()
SMALL_BODY = Shape(vocab=256, hidden=32, layers=4, heads=2, ffn=80)
"""For tests: the same fleet in a second."""


@dataclass(frozen=True)
class App:
    """One application: a folder that a team would hand over."""

    name: str
    kind: str
    """``base``, ``lora``, ``top`` (only the last layers), ``head`` or ``full``."""
    path: Path


@dataclass(frozen=True)
class Fleet:
    """The folders of a fleet; the base comes first."""

    root: Path
    shape: Shape
    apps: tuple[App, ...]

    @property
    def base(self) -> App:
        """The model all others were made from."""
        return self.apps[0]

    def app(self, name: str) -> App:
        """The application called ``name``. Raises KeyError."""
        return next((app for app in self.apps if app.name == name), None) or _missing(name)

    def directory_bytes(self) -> int:
        """Sum of all files of all folders: what the fleet takes without a zoo."""
        return sum(f.stat().st_size for app in self.apps for f in app.path.rglob("*") if f.is_file())


def _missing(name: str) -> App:
    raise KeyError(name)


def sixteen_apps(root: Path, *, seed: int, shape: Shape = BODY_30M) -> Fleet:
    """1 base, 8 LoRA (r = 8 and 16 in turn), 3 with new top-2 layers, 2 with a new head, 2 full fine-tunes."""
    maker = _Maker(root, shape, seed)
    maker.base()
    for i in range(8):
        maker.lora(f"lora-{i}", rank=(8, 16)[i % 2])
    for i in range(3):
        maker.top(f"top2-{i}", layers=2)
    for i in range(2):
        maker.changed(f"head-{i}", "head", lambda name: name == "lm_head.weight")
    for i in range(2):
        maker.changed(f"full-{i}", "full", lambda name: True)
    return maker.fleet()


def sixteen_loras(root: Path, *, seed: int, shape: Shape = BODY_30M, count: int = 16, rank: int = 8) -> Fleet:
    """The base and ``count`` different LoRAs of it, all of one rank, on q, k, v and o."""
    maker = _Maker(root, shape, seed)
    maker.base()
    for i in range(count):
        maker.lora(f"lora-{i}", rank=rank)
    return maker.fleet()


def top_variants(root: Path, *, seed: int, shape: Shape = BODY_30M, depths: Sequence[int] = (1, 2)) -> Fleet:
    """The base and four variants for each depth, each with that many last layers of its own."""
    maker = _Maker(root, shape, seed)
    maker.base()
    for depth in depths:
        for i in range(4):
            maker.top(f"top{depth}-{i}", layers=depth)
    return maker.fleet()


def three_apps(root: Path, *, seed: int, shape: Shape = BODY_30M) -> Fleet:
    """The base, one with new top-2 layers, and a full fine-tune."""
    maker = _Maker(root, shape, seed)
    maker.base()
    maker.top("top2-0", layers=2)
    maker.changed("full-0", "full", lambda name: True)
    return maker.fleet()


def one_model(root: Path, *, seed: int, shape: Shape = BODY_30M) -> Fleet:
    """The base alone."""
    maker = _Maker(root, shape, seed)
    maker.base()
    return maker.fleet()


def merged(fleet: Fleet, root: Path) -> Fleet:
    """The same applications as whole models: LoRAs folded into their base, other folders as they are.

    A system without adapters serves these, and pays no merging when it loads them.
    """
    base = load_file(fleet.base.path / "model.safetensors")
    apps = []
    for app in fleet.apps:
        if app.kind != "lora":
            apps.append(app)
            continue
        config = json.loads((app.path / "adapter_config.json").read_text())
        adapter = load_file(app.path / "adapter_model.safetensors")
        scale = config["lora_alpha"] / config["r"]
        weights = dict(base)
        for key, down in adapter.items():
            if key.endswith("lora_A.weight"):
                name = key.removeprefix("base_model.model.").replace("lora_A.", "")
                up = adapter[key.replace("lora_A", "lora_B")]
                weights[name] = base[name] + scale * (up @ down)
        path = root / app.name
        _write_model(path, fleet.shape, weights)
        apps.append(App(app.name, app.kind, path))
    return Fleet(root, fleet.shape, tuple(apps))


class _Maker:
    """Writes folders under ``root``; each application has its own random stream, drawn from the seed and its name."""

    def __init__(self, root: Path, shape: Shape, seed: int) -> None:
        self._root, self._shape, self._seed = root, shape, seed
        self._weights: dict[str, Weights] = {}
        self._apps: list[App] = []

    def base(self) -> None:
        rng = self._rng("base")
        for name, size in self._shape.tensors().items():
            matrix = len(size) == 2
            self._weights[name] = _normal(rng, size) * np.float32(0.02) if matrix else np.ones(size, np.float32)
        self._write("base", "base", self._weights)

    def changed(self, name: str, kind: str, moves: Callable[[str], bool]) -> None:
        """A whole folder in which the tensors ``moves`` names went RELATIVE_CHANGE away from the base."""
        rng = self._rng(name)
        self._write(name, kind, {k: moved(w, rng) if moves(k) else w for k, w in self._weights.items()})

    def top(self, name: str, layers: int) -> None:
        first = self._shape.layers - layers
        mine = tuple(f"model.layers.{i}." for i in range(first, self._shape.layers))
        self.changed(name, "top", lambda tensor: tensor.startswith(mine))

    def lora(self, name: str, rank: int) -> None:
        rng, d = self._rng(name), self._shape.hidden
        adapter = {}
        for layer in range(self._shape.layers):
            for role in LORA_TARGETS:
                at = f"base_model.model.model.layers.{layer}.self_attn.{role}."
                adapter[at + "lora_A.weight"] = _normal(rng, (rank, d)) / np.float32(d**0.5)
                adapter[at + "lora_B.weight"] = _normal(rng, (d, rank)) * np.float32(0.02)
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True)
        save_file(adapter, path / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(self._root / "base"),
            "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "target_modules": list(LORA_TARGETS),
            "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "modules_to_save": None,
            "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
        }  # fmt: skip
        (path / "adapter_config.json").write_text(json.dumps(config, indent=2))
        self._apps.append(App(name, "lora", path))

    def fleet(self) -> Fleet:
        return Fleet(self._root, self._shape, tuple(self._apps))

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, crc32(name.encode())])

    def _write(self, name: str, kind: str, weights: Mapping[str, Weights]) -> None:
        _write_model(self._root / name, self._shape, weights)
        self._apps.append(App(name, kind, self._root / name))


def moved(weight: Weights, rng: np.random.Generator) -> Weights:
    """``weight`` plus Gaussian noise whose L2 norm is exactly RELATIVE_CHANGE of the weight's."""
    noise = _normal(rng, weight.shape)
    return weight + noise * np.float32(RELATIVE_CHANGE * np.linalg.norm(weight) / np.linalg.norm(noise))


def relative_change(base: Weights, changed: Weights) -> float:
    """||changed - base|| / ||base||."""
    return float(np.linalg.norm(changed - base) / np.linalg.norm(base))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    return rng.standard_normal(shape, dtype=np.float32)


def _write_model(path: Path, shape: Shape, weights: Mapping[str, Weights]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(weight) for name, weight in weights.items()}, path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (path / "config.json").write_text(json.dumps(shape.config(), indent=2))
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    for name, text in _tokenizer(shape.vocab):
        (path / name).write_text(text)


def _tokenizer(vocab: int) -> Iterable[tuple[str, str]]:
    """A tokenizer of whole words ``w3 w4 ...``, one id each: text is not what is measured."""
    special = ["<unk>", "<s>", "</s>"]
    words = {token: i for i, token in enumerate(special)} | {f"w{i}": i for i in range(len(special), vocab)}
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, token in enumerate(special)
    ]  # fmt: skip
    yield "tokenizer.json", json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    })  # fmt: skip
    yield "tokenizer_config.json", json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
        "model_max_length": 1024,
    })  # fmt: skip
