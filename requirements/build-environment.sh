#!/bin/sh
# In an image's build: installs a lock into /opt/venv, an environment that does not even have pip. The project's
# packages are in /opt/app and are found through a .pth file, so that a change of the sources renews only a small layer.
set -eu
python3 -m venv --without-pip /opt/venv
UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 /opt/tools/bin/uv pip install --quiet --python /opt/venv/bin/python \
    --require-hashes --no-deps -r "$1"
# Nobody changes this byte code, so it is never checked.
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
# The public image has its standard library without byte code, so each start of a program would compile what it imports
# of it: 1.5 s for an attempt. What Debian has compiled is left as it is.
stdlib=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash \
    -x '/(tests?|idlelib|tkinter|turtledemo|lib2to3|pydoc_data|ensurepip|site-packages|dist-packages|config-[^/]*)/' "$stdlib"
echo /opt/app > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth"
