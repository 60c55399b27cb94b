#!/bin/sh
# In an image's build: installs packages of this project (folders, relative to here) into /opt/app. FOLDER:MODULE installs
# only this module of a folder that has the modules of several programs.
set -eu
for package in "$@"; do
    folder=${package%%:*} only=${package#"$folder"}
    if [ -n "$only" ]; then
        find "$folder/src" -mindepth 1 -maxdepth 1 ! -name "${only#:}" -exec rm -r {} +
        sed -i "s/^module-name = .*/module-name = \"${only#:}\"/" "$folder/pyproject.toml"
    fi
    uv build --quiet --wheel --out-dir /tmp/wheels "$folder"
done
uv pip install --quiet --no-deps --target /opt/app /tmp/wheels/*.whl
# What uv notes of a wheel's time would differ from build to build.
rm /opt/app/.lock /opt/app/*.dist-info/uv_cache.json
sed -i /uv_cache/d /opt/app/*.dist-info/RECORD
# Byte code is checked by the source's hash: it stays valid whatever time the files get, and a file that is changed in
# a running container takes effect.
python3 -m compileall -q --invalidation-mode checked-hash /opt/app
