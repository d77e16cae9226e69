#!/bin/sh
# Fetches other people's clients for tests/tests/sdks.rs: prepare.sh DIRECTORY
# What was fetched before is kept until other versions are wanted.
set -eu
directory=$1
here=$(cd "$(dirname "$0")" && pwd)
wanted=$(cat "$here/requirements.txt" "$here/package.json" | sha256sum)
if [ "$(cat "$directory/made-of" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

# Not every Python and Node.js comes from the distribution.
python3 -c 'import ensurepip, venv' 2>/dev/null || "$here/../../contrib/require.sh" python3 python3-venv
command -v npm >/dev/null || "$here/../../contrib/require.sh" nodejs npm

echo "Fetching the clients of tests/sdks"
rm -rf "$directory"
mkdir -p "$directory"
python3 -m venv "$directory/python"
"$directory/python/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
cp "$here/package.json" "$directory"
# No script of a package is needed for what is done here.
(cd "$directory" && npm install --silent --no-package-lock --ignore-scripts --no-audit --no-fund)
echo "$wanted" > "$directory/made-of"
