"""The node pack as ComfyUI uses it: its example workflows, drawn node by node. Part of `clients.py`.

With SANAKIT_COMFYUI, a checkout, its own tests run in a real ComfyUI. Without, nodes are found, described and
called by ComfyUI's protocol alone, with stand-ins for its LoadImage and SaveImage.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from real_clients.report import Report, run

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = {"PROMPT", "EXTRA_PNGINFO", "UNIQUE_ID"}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")


def draw_workflows(report: Report, folder: Path) -> None:
    """Use the nodes, in ComfyUI where there is one."""
    folder.mkdir()
    checkout = os.environ.get("SANAKIT_COMFYUI")
    if checkout:
        client = report.ours("ComfyUI", Path(checkout).name)
        with client.does("its tests"):
            run(
                sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/comfy/test_in_comfyui.py", cwd=ROOT
            )
        return
    report.absent.append("ComfyUI (SANAKIT_COMFYUI names no checkout)")
    client = report.ours("ComfyUI's protocol", "without ComfyUI")
    nodes = _nodes()
    with client.does(f"{len(nodes)} nodes described"):
        for name, node in nodes.items():
            _describe(name, node)
    Image.effect_noise((256, 256), 60).convert("RGB").save(folder / "example.png")
    for path in sorted((ROOT / "examples" / "comfyui").glob("*-api.json")):
        if path.stem == "control-api":
            report.absent.append("the workflow control (it needs a trained ControlNet)")
            continue
        if path.stem.endswith("-to-video-api"):
            report.absent.append(f"the workflow {path.stem[:-4]} (it needs a video model)")
            continue
        with client.does(path.stem.removesuffix("-api")):
            saved = _draw(json.loads(path.read_text(encoding="utf-8")), nodes, folder)
            assert [image.shape[3] for image in saved] == [3], saved


def _nodes() -> dict[str, type]:
    """Load the folder for custom_nodes as ComfyUI does, whatever it is called there."""
    spec = spec_from_file_location("custom", ROOT / "deploy" / "comfyui" / "sanakit" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == module.NODE_CLASS_MAPPINGS.keys()
    return module.NODE_CLASS_MAPPINGS


def _describe(name: str, node: Any) -> None:
    """Check what ComfyUI reads to answer /object_info; it is sent as JSON."""
    inputs = node.INPUT_TYPES()
    json.dumps(inputs)
    assert inputs.keys() <= {"required", "optional", "hidden"}, name
    assert set(inputs.get("hidden", {}).values()) <= HIDDEN, name
    for group in ("required", "optional"):
        for key, (kind, *more) in inputs.get(group, {}).items():
            options = more[0] if more else {}
            assert isinstance(kind, list | str), (name, key)
            assert "default" in options or not (isinstance(kind, list) or kind in WIDGETS), (name, key)
    assert isinstance(node.RETURN_TYPES, tuple), name
    assert callable(getattr(node, node.FUNCTION)), name
    assert node.CATEGORY, name
    assert not hasattr(node, "IS_CHANGED") or callable(node.IS_CHANGED), name
    assert not hasattr(node, "VALIDATE_INPUTS") or callable(node.VALIDATE_INPUTS), name


def _draw(workflow: dict[str, Any], nodes: dict[str, type], folder: Path) -> list[Any]:
    """Run a workflow of ComfyUI's HTTP interface from its ends backwards; return what is saved."""
    done: dict[str, tuple[Any, ...]] = {}

    def result(key: str) -> tuple[Any, ...]:
        if key not in done:
            step = workflow[key]
            given = {
                name: result(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in step["inputs"].items()
            }
            if step["class_type"] == "LoadImage":
                done[key] = _load(folder / "example.png")
            else:
                node: Any = nodes[step["class_type"]]()
                done[key] = getattr(node, node.FUNCTION)(**given)
                assert len(done[key]) == len(node.RETURN_TYPES), step["class_type"]
        return done[key]

    ends = [step["inputs"]["images"] for step in workflow.values() if step["class_type"] == "SaveImage"]
    return [result(key)[place] for key, place in ends]


def _load(path: Path) -> tuple[Any, ...]:
    """Return IMAGE and MASK of a file, as ComfyUI's LoadImage does; here the mask marks a quarter."""
    import torch

    pixels = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 255)[None]
    mask = torch.zeros(pixels.shape[:3])
    mask[:, :128, :128] = 1
    return pixels, mask
