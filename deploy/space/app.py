"""The page of `sana ui` as a Hugging Face Space; here too: python deploy/space/app.py"""

from __future__ import annotations

import os
import tempfile

import uvicorn
from fastapi import FastAPI

from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.mount import build_page, mount_page

if __name__ == "__main__":
    engine = Engine(["pocket"])
    engine.start()
    page = build_page(engine, ImageStore(tempfile.mkdtemp()), private=True)
    # The two variables are Gradio's, and those that a Space sets.
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    uvicorn.run(mount_page(FastAPI(), page), host=host, port=port)
    engine.close()
