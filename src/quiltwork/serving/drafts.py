"""Which small model drafts for which others, and whether the two speak the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quiltwork.core.names import ModelRef, visible_to
from quiltwork.serving.hosting import Language
from quiltwork.zoo.types import Chain, Model


@dataclass(frozen=True)
class Drafts:
    """A server's drafts: one for all models that it fits, others for single models and all that was made from them."""

    general: ModelRef | None = None
    named: Mapping[ModelRef, ModelRef] = field(default_factory=dict)

    def named_for(self, model: Model, find: Callable[[ModelRef], Model]) -> ModelRef | None:
        """The draft named for a model, else for the nearest one it was made from."""
        at: Model | None = model if self.named else None
        seen: set[ModelRef] = set()
        while at is not None and at.ref not in seen:
            if at.ref in self.named:
                return self.named[at.ref]
            seen.add(at.ref)
            at = find(at.base) if at.base is not None else None
        return None


def unfit(draft: Language, draft_chain: Chain, language: Language, chain: Chain) -> str | None:
    """Why a model cannot draft for another one; None where it can."""
    if not visible_to(draft.ref, language.ref.tenant):
        return "belongs to another tenant"
    sizes = [each.links[-1].block.arch.get("vocab_size") for each in (draft_chain, chain)]
    if sizes[0] != sizes[1]:
        return f"has {sizes[0]} tokens, the model {sizes[1]}"
    texts = [each.codec.to_json() for each in (draft, language) if each.codec is not None]
    if len(set(texts)) > 1:
        return "has another tokenizer"
    return None
