"""Our voice server on upstream's real code with a tiny model, in CosyVoice's own environment, for the tests.

`python -m tests.cosyvoice.serve UPSTREAM MODEL ARGUMENTS...`: the product's own start and routes, and beside them
upstream's stock server on the same model (/stock) and each fault, bare and mended (/faults/NAME).
"""

import asyncio
import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

from tests.cosyvoice import stand_ins


def main(upstream: Path, model: Path, rest: list[str]) -> None:
    warnings.simplefilter("ignore")
    stand_ins.install(upstream)
    if not model.exists():
        from tests.cosyvoice.tiny import make

        part = model.with_name(f"{model.name}.part-{os.getpid()}")
        make(part, upstream)
        part.rename(model)

    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route

    from tests.cosyvoice.faults import FAULTS, Bench
    from tts.cosyvoice_server.__main__ import arguments, engine, serve
    from tts.cosyvoice_server.app import application

    options = arguments(["--model", str(model), "--threads", "1", "--port", "0", *rest])
    made = engine(options)
    logging.getLogger().setLevel(logging.ERROR)
    app = application(made)

    async def fault(request: Request) -> Response:
        look = FAULTS[request.path_params["name"]]
        return JSONResponse(await asyncio.to_thread(look, Bench(made)))

    spec = importlib.util.spec_from_file_location("stock", upstream / "runtime/python/fastapi/server.py")
    assert spec is not None
    assert spec.loader is not None
    stock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stock)
    stock.cosyvoice = made.cosyvoice
    app.router.routes += [Route("/faults/{name}", fault), Mount("/stock", stock.app)]
    serve(app, options.host, options.port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
