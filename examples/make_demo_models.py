"""Makes the models under examples/models: a small llama-shaped base and nine variants of it.

The text is the standard library of the Python that runs this file, so nothing is downloaded. The base learns the
top-level modules; each variant learns one package (or all docstrings) that the base has never seen, by one of the ways
people fine-tune: everything, the top layers, the head, LoRA of three ranks, the norms, or IA3. The same Python, torch
and processor give the same bytes; elsewhere the losses agree to about .02.

    python examples/make_demo_models.py --out examples/models --seed 7
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import platform
import random
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

END = "<|endoftext|>"
VOCABULARY = 512
CONTEXT = 512
WINDOW = 192  # tokens per training row
ROWS = 8  # rows per step
HELD_OUT = 0.1  # the last tenth of every corpus is never trained on
BASE_STEPS = 1400
BASE_RATE = 4e-3
Q, K, V, OUT = "q_proj", "k_proj", "v_proj", "o_proj"
GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"


@dataclass(frozen=True)
class Variant:
    """One fine-tune: what it reads, what of the model it may change, and for how long."""

    name: str
    kind: str  # full | top2 | head | peft
    corpus: str
    steps: int
    rate: float
    adapter: PeftConfig | None = None

    @property
    def what(self) -> str:
        """What of the model is trained, in words."""
        if isinstance(self.adapter, LoraConfig):
            return f"LoRA r={self.adapter.r} on {', '.join(sorted(self.adapter.target_modules or ()))}"
        if isinstance(self.adapter, IA3Config):
            return "IA3 on k_proj, v_proj, down_proj"
        if self.adapter is not None:
            return "norm weights (PEFT LN tuning)"
        return {"full": "all weights", "top2": "top two layers", "head": "output head, untied"}[self.kind]


def lora(rank: int, *targets: str) -> LoraConfig:
    """A LoRA of `rank` on the linear layers named `targets`."""
    return LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(targets)
    )


VARIANTS = (
    Variant("asyncio-full", "full", "asyncio", 120, 1e-3),
    Variant("web-full", "full", "web", 120, 1e-3),
    Variant("unittest-top2", "top2", "unittest", 120, 2e-3),
    Variant("docstrings-head", "head", "docstrings", 100, 2e-3),
    Variant("asyncio-lora-r4", "peft", "asyncio", 120, 1e-2, lora(4, Q, V)),
    Variant("xml-lora-r8", "peft", "xml", 120, 6e-3, lora(8, Q, K, V, OUT)),
    Variant("concurrency-lora-r16", "peft", "concurrency", 120, 4e-3, lora(16, Q, K, V, OUT, GATE, UP, DOWN)),
    Variant(
        "docstrings-norms",
        "peft",
        "docstrings",
        100,
        1e-2,
        LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm", "post_attention_layernorm"]),
    ),
    Variant(
        "web-ia3",
        "peft",
        "web",
        100,
        1e-2,
        IA3Config(task_type="CAUSAL_LM", target_modules=[K, V, DOWN], feedforward_modules=[DOWN]),
    ),
)

PACKAGES = {
    "asyncio": ("asyncio",),
    "web": ("email", "http", "urllib"),
    "unittest": ("unittest",),
    "xml": ("xml", "json", "html"),
    "concurrency": ("concurrent", "multiprocessing", "logging"),
}
"""Corpus -> packages of the standard library whose sources it is. `docstrings` is drawn from all of these."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of steps")
    args = parser.parse_args(argv)
    torch.set_num_threads(
        1
    )  # one thread: the order of additions, and so the bytes, do not depend on the machine's cores
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")  # that ../base is no path from here, and that norms are layers too
    began = time.monotonic()
    out: Path = args.out
    texts = corpora(Path(sysconfig.get_path("stdlib")))
    tokenizer = train_tokenizer(texts["base"])
    data = {name: torch.tensor(tokenizer.encode(text).ids) for name, text in texts.items()}
    base_loss = make_base(out / "base", tokenizer, data["base"], args.seed, args.scale)
    print(f"base: held-out loss {base_loss:.3f} after {time.monotonic() - began:.0f} s", flush=True)
    results = []
    for variant in VARIANTS:
        before, after = make_variant(out, variant, tokenizer, data[variant.corpus], args.seed, args.scale)
        results.append((variant, before, after))
        print(f"{variant.name}: {before:.3f} -> {after:.3f} after {time.monotonic() - began:.0f} s", flush=True)
    write_readme(out, args, texts, data, base_loss, results)


# --- the text ----------------------------------------------------------------------------------------------------


def corpora(library: Path) -> dict[str, str]:
    """Corpus name -> text. Files are read in the order of their names, so that the text is the same everywhere."""
    modules = [library / f"{name}.py" for name in sorted(sys.stdlib_module_names) if not name.startswith("_")]
    texts = {"base": joined(path for path in modules if path.is_file())}
    for name, packages in PACKAGES.items():
        texts[name] = joined(path for package in packages for path in sources(library / package))
    files = [path for packages in PACKAGES.values() for package in packages for path in sources(library / package)]
    texts["docstrings"] = END.join(docstring for path in files for docstring in docstrings(path))
    return texts


def sources(package: Path) -> list[Path]:
    """The package's Python files without its tests."""
    if not package.is_dir():
        raise SystemExit(f"{package} is missing: this Python comes without the whole standard library; install it")
    return [path for path in sorted(package.rglob("*.py")) if not {"test", "tests"} & set(path.parts)]


def joined(paths: Iterable[Path]) -> str:
    return END.join(path.read_text("utf-8") for path in paths)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def train_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE with 512 tokens: 256 bytes, the end of text, and 255 merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(END), trainer)
    return tokenizer


# --- the models --------------------------------------------------------------------------------------------------


def make_base(out: Path, tokenizer: Tokenizer, tokens: torch.Tensor, seed: int, scale: float) -> float:
    """Trains the base and saves it; returns its held-out loss (nats per token)."""
    torch.manual_seed(seed)
    end = tokenizer.token_to_id(END)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=None,
            attn_implementation="sdpa",
        )
    )
    train(model, list(model.parameters()), learnable(tokens), steps(BASE_STEPS, scale), BASE_RATE, seed)
    save_model(model, out, tokenizer)
    return loss(load_base(out), tokens)


def make_variant(
    out: Path, variant: Variant, tokenizer: Tokenizer, tokens: torch.Tensor, seed: int, scale: float
) -> tuple[float, float]:
    """Fine-tunes the saved base; returns the held-out loss of the base and of the variant on the variant's corpus."""
    torch.manual_seed(seed)
    model: Any = load_base(out / "base")
    before = loss(model, tokens)
    if variant.adapter is not None:
        model = get_peft_model(model, variant.adapter)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
    else:
        trained = unfrozen(model, variant.kind)
    train(model, trained, learnable(tokens), steps(variant.steps, scale), variant.rate, seed)
    folder = out / variant.name
    if variant.adapter is None:
        save_model(model, folder, tokenizer)
        return before, loss(load_base(folder), tokens)
    for weight in trained:
        weight.data = weight.data.half().float()  # what is saved is what is measured
    after = loss(model, tokens)
    model.peft_config["default"].base_model_name_or_path = "../base"
    for weight in trained:
        weight.data = weight.data.half()
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    for key in ("target_modules", "feedforward_modules"):  # sets, written in an order that differs from run to run
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
    return before, after


def unfrozen(model: LlamaForCausalLM, kind: str) -> list[torch.nn.Parameter]:
    """The parameters that a fine-tune of `kind` changes; the rest is frozen, and so stays the base's to the bit."""
    if kind == "head":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        trained = [model.lm_head.weight]
    elif kind == "top2":
        trained = [*model.model.layers[-2].parameters(), *model.model.layers[-1].parameters()]
    else:
        trained = list(model.parameters())
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    return trained


def load_base(folder: Path) -> LlamaForCausalLM:
    """The saved model in float32; the stored halves widen without loss."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_model(model: LlamaForCausalLM, folder: Path, tokenizer: Tokenizer) -> None:
    model.half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": CONTEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


# --- training ----------------------------------------------------------------------------------------------------


def learnable(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[: int(len(tokens) * (1 - HELD_OUT))]


def steps(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def train(
    model: torch.nn.Module,
    weights: list[torch.nn.Parameter],
    tokens: torch.Tensor,
    count: int,
    rate: float,
    seed: int,
) -> None:
    """AdamW over `count` steps of ROWS x WINDOW tokens drawn anywhere in `tokens`; the rate rises, then falls to 0."""
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, count // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / count))
    )
    model.train()
    for _ in range(count):
        starts = [draw.randrange(len(tokens) - WINDOW) for _ in range(ROWS)]
        batch = torch.stack([tokens[start : start + WINDOW] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def loss(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Mean loss in nats per token over up to 64 windows spread evenly over the held-out tail."""
    model.eval()
    held = tokens[int(len(tokens) * (1 - HELD_OUT)) :]
    rows = min(64, (len(held) - 1) // WINDOW)
    stride = (len(held) - WINDOW) // rows
    windows = torch.stack([held[row * stride : row * stride + WINDOW] for row in range(rows)])
    return sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in windows.split(8)) / rows


# --- the account -------------------------------------------------------------------------------------------------


def write_readme(
    out: Path,
    args: argparse.Namespace,
    texts: dict[str, str],
    data: dict[str, torch.Tensor],
    base_loss: float,
    results: list[tuple[Variant, float, float]],
) -> None:
    weights = sorted(out.glob("*/*.safetensors"))
    size = sum(path.stat().st_size for path in weights)
    lines = [
        "# The demo's models",
        "",
        "A base language model of 0.26 M parameters and nine variants of it, made by",
        "[make_demo_models.py](../make_demo_models.py) from the Python standard library's own sources. They are real",
        "fine-tunes, trained to show every way of sharing weights; they are far too small to write useful code.",
        "",
        f"    python examples/make_demo_models.py --out examples/models --seed {args.seed}",
        "",
        f"Made with Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, one thread, "
        f"fp16 on disk; {size / 1e6:.2f} MB of weights in all.",
        "The same Python, torch and processor give the same bytes (checksums below). Another Python has another",
        "library, and another processor adds in another order: expect losses within about .02, not the same bytes.",
        "",
        "Loss is in nats per token on the last tenth of each corpus, which is never trained on. *before* is the base",
        "on the variant's corpus.",
        "",
        "| model | what is trained | corpus | loss before | loss after | weights, kB |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| base | everything, from scratch | base | {math.log(VOCABULARY):.3f} (uniform) | {base_loss:.3f} "
        f"| {kilobytes(out / 'base')} |",
        *(
            f"| {v.name} | {v.what} | {v.corpus} | {before:.3f} | {after:.3f} | {kilobytes(out / v.name)} |"
            for v, before, after in results
        ),
        "",
        "| corpus | what | tokens | blake2b of the text |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {describe(name)} | {len(data[name]):,} | `{digest(text)}` |" for name, text in texts.items()),
        "",
        "| weights | blake2b |",
        "| --- | --- |",
        *(f"| {path.relative_to(out)} | `{digest(path.read_bytes())}` |" for path in weights),
        "",
    ]
    (out / "README.md").write_text("\n".join(lines), "utf-8")


def describe(corpus: str) -> str:
    if corpus == "base":
        return "top-level modules of the library, those with a leading underscore left out"
    if corpus == "docstrings":
        return "every docstring of all those packages"
    return "packages " + ", ".join(PACKAGES[corpus])


def kilobytes(folder: Path) -> int:
    return round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e3)


def digest(data: str | bytes) -> str:
    return hashlib.blake2b(data.encode() if isinstance(data, str) else data, digest_size=8).hexdigest()


if __name__ == "__main__":
    main()
